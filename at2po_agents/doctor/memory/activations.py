"""What a forward pass keeps for the backward pass, in bytes per token.

The formulas count the tensors that autograd saves in transformers' Llama, Qwen2 and Qwen3 layers
under our attention; a test compares them with what torch says it saves.
"""

from __future__ import annotations

from at2po_agents.policy.sizes import Decoder


def layer_parts(sizes: Decoder, item: int, lora: int = 0) -> dict[str, int]:
    """Bytes per token that the parts of one layer keep.

    Args:
        sizes: The model.
        item: Bytes of a number of weights and activations.
        lora: Rank of the adapters where only they are trained, else 0.

    Returns:
        Those of norms, attention and MLP, and of the adapters if there are any.

    Source: counted off transformers' modules. Autograd keeps the inputs of products, of one with a
    matrix only where that is trained or has an adapter; a norm works in float32.
    """
    width, q, k = sizes.hidden, sizes.query_width, sizes.key_width
    trained = 0 if lora else item
    norms = 2 * (_norm(width, trained) + item * width)  # and what they return
    if sizes.norms_heads:
        norms += _norm(q, trained, sizes.heads) + _norm(k, trained, sizes.kv_heads)
    parts = {
        "norms": norms,
        # Queries, output, keys and values; the sums of the softmax.
        "attention": item * (2 * q + 2 * k) + 4 * sizes.heads,
        # Gate, its activation, up, their product.
        "MLP": item * 4 * sizes.intermediate,
    }
    return parts | ({"adapters": item * lora * len(sizes.matrices)} if lora else {})


def input_bytes(sizes: Decoder, item: int) -> int:
    """Bytes per token of the input of a layer, which is all that a checkpointed one keeps."""
    return item * sizes.hidden


def end_bytes(sizes: Decoder, item: int, lora: int = 0) -> int:
    """Bytes per token kept outside of layers: last norm, input of the head, rotations, ids."""
    norm = _norm(sizes.hidden, 0 if lora else item)
    return norm + item * sizes.hidden + 2 * item * sizes.head_dim + 8


def gradient_bytes(sizes: Decoder, item: int) -> int:
    """Bytes per token of two gradients as wide as the widest tensors of a layer.

    The backward pass through a layer holds about as much beside what the forward pass has kept.
    """
    return 2 * item * max(sizes.intermediate, sizes.query_width + sizes.key_width)


def _norm(width: int, trained: int, groups: int = 1) -> int:
    """Bytes that a norm keeps: its input in float32, its scale, and the result before weights."""
    return 4 * width + 4 * groups + trained * width
