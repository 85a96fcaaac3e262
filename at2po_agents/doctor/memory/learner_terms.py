"""What a GPU holds that learns: weights, gradients, AdamW's moments, activations.

What a forward pass keeps for the backward pass is counted in bytes per token: the tensors that
autograd saves in transformers' Llama, Qwen2 and Qwen3 layers under our attention. A test compares
the formulas with what torch says it saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from at2po_agents.doctor.memory.plan import Plan
from at2po_agents.doctor.memory.terms import (
    BACKWARD,
    FLOAT,
    GRADIENTS,
    LOGIT_BYTES,
    UPDATE,
    Term,
    millions,
)
from at2po_agents.policy.sizes import Decoder

ROW_BYTES = 37
"""Bytes per token of the rows of a pack: three int64, three float32, one bool."""


def learner_terms(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    """Yield what a GPU needs to learn."""
    yield from _weights(plan, sizes) if plan.learning == 1 else _sharded(plan, sizes)
    yield from _optimizer(plan, sizes)
    if plan.reference and not plan.lora:  # else the model without its adapters is the reference
        size = plan.item * sizes.parameters // plan.learning
        yield Term("reference policy", size, f"{plan.item} bytes x {millions(sizes.parameters)}")
    yield from _activations(plan, sizes)


def offloaded_terms(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    """Yield what is kept in the CPU's memory instead, in bytes per machine."""
    if not plan.offload:
        return
    trained, everything = _parameters(plan, sizes)
    kept = trained if plan.learning == 1 else everything
    share = min(plan.machines.each, plan.learning) / plan.learning
    yield Term("float32 weights", round(FLOAT * kept * share), f"4 bytes x {millions(kept)}")
    size = round(FLOAT * trained * share)
    yield Term("gradients", size, f"4 bytes x {millions(trained)}")
    yield Term("AdamW's moments", 2 * size, f"2 x 4 bytes x {millions(trained)}")


def _weights(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    """Weights and gradients of a learner on one GPU, as in `MasterWeights`."""
    trained, everything = _parameters(plan, sizes)
    item, count = plan.item, millions(trained)
    yield Term("weights", item * everything, f"{item} bytes x {millions(everything)}")
    narrow = item < FLOAT
    if narrow and not plan.offload:
        yield Term("float32 masters", FLOAT * trained, f"4 bytes x {count}")
    if narrow or plan.offload:
        how = f"{item} bytes x {count}, of one backward pass"
        yield Term("gradients as they come", item * trained, how, frozenset({"layers"}))
    if not plan.offload:
        how = f"4 bytes x {count}, added up in float32"
        yield Term("gradients", FLOAT * trained, how, GRADIENTS)


def _sharded(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    """Weights and gradients of one of several ranks, by FSDP2."""
    trained, everything = _parameters(plan, sizes)
    ranks, item, per_layer = plan.learning, plan.item, sizes.layer_parameters
    if not plan.offload:
        how = f"4 bytes x {millions(everything)} / {ranks} ranks; weights and masters in one"
        yield Term("float32 shards", FLOAT * everything // ranks, how)
        how = f"4 bytes x {millions(trained)} / {ranks} ranks"
        yield Term("gradient shards", FLOAT * trained // ranks, how, GRADIENTS | {"root"})
    root = item * sizes.root_parameters
    how = f"{item} bytes x {millions(sizes.root_parameters)}: embedding, head, last norm"
    yield Term("gathered root group", root, how, BACKWARD | {"root"})
    how = f"{item} bytes x 2 layers of {millions(per_layer)}: one at work, one fetched ahead"
    yield Term("gathered layers", 2 * item * per_layer, how, BACKWARD)
    if plan.lora:
        return  # what is gathered is frozen, and adapters are small
    how = f"{item} + 4 bytes x {millions(per_layer)}, and {item} x the root group"
    size = (item + FLOAT) * per_layer + root
    yield Term("whole gradients", size, how, frozenset({"layers"}))
    how = f"{item} + 4 bytes x {millions(sizes.root_parameters)}, before they are shared out"
    size = (item + FLOAT) * sizes.root_parameters
    yield Term("root group's gradients", size, how, frozenset({"root"}))


def _optimizer(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    if plan.offload:
        return
    trained, _ = _parameters(plan, sizes)
    shared = f"{millions(trained)} / {plan.learning} ranks" if plan.learning > 1 else None
    size, count = FLOAT * trained // plan.learning, shared or millions(trained)
    yield Term("AdamW's moments", 2 * size, f"2 x 4 bytes x {count}")
    how = f"4 bytes x {count}: torch's foreach step makes the roots of all second moments"
    yield Term("AdamW's step", size, how, frozenset({"step"}))


def _activations(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    tokens, item = plan.token_budget, plan.item
    rows = math.ceil(plan.questions / plan.learning) * plan.leaves
    how = f"{rows:,} rows of a step x {plan.context:,} tokens x {ROW_BYTES} bytes, at most"
    yield Term("packed trees", rows * plan.context * ROW_BYTES, how, UPDATE)
    how = f"3 x {tokens:,}² booleans, from which FlexAttention's block mask is made"
    yield Term("block mask", 3 * tokens**2, how, frozenset({"packing"}))
    yield from _kept(plan, sizes)
    per_token = gradient_bytes(sizes, item)
    how = f"{tokens:,} tokens x {per_token:,} bytes: two as wide as a layer's widest tensors"
    yield Term("gradients at work", tokens * per_token, how, frozenset({"layers"}))
    from at2po_agents.learner.logprobs import LOGITS_AT_ONCE  # a module that needs torch

    logits = min(tokens, max(1, LOGITS_AT_ONCE // sizes.vocabulary)) * sizes.vocabulary
    size, how = LOGIT_BYTES * logits, f"{LOGIT_BYTES} bytes x {logits / 1e6:.1f} M logits at once"
    if not plan.lora:
        size += 2 * item * sizes.vocabulary * sizes.hidden
        how += f", {item} bytes x the head's gradient twice"
    yield Term("logits", size, how, frozenset({"head"}))


def _kept(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    """What the forward pass keeps for the backward pass."""
    tokens, layers, item = plan.token_budget, sizes.layers, plan.item
    parts = layer_parts(sizes, item, plan.lora)
    if plan.gradient_checkpointing:
        per_token = input_bytes(sizes, item)
        how = f"{layers} layers x {tokens:,} tokens x {per_token:,} bytes"
        yield Term("hidden states", layers * tokens * per_token, how, BACKWARD)
        per_token = sum(parts.values())
        how = f"{tokens:,} tokens x {per_token:,} bytes: {', '.join(parts)}"
        yield Term("one layer, recomputed", tokens * per_token, how, frozenset({"layers"}))
    else:
        for name, per_token in parts.items():
            how = f"{layers} layers x {tokens:,} tokens x {per_token:,} bytes"
            yield Term(f"activations, {name}", layers * tokens * per_token, how, BACKWARD)
    per_token = end_bytes(sizes, item, plan.lora)
    how = f"{tokens:,} tokens x {per_token:,} bytes: last norm, input of the head, rotations"
    yield Term("behind the layers", tokens * per_token, how, BACKWARD)


def _parameters(plan: Plan, sizes: Decoder) -> tuple[int, int]:
    """Return the number of parameters that are trained, and of all."""
    adapters = sizes.adapter_parameters(plan.lora)
    return (adapters if plan.lora else sizes.parameters), sizes.parameters + adapters


def layer_parts(sizes: Decoder, item: int, lora: int = 0) -> dict[str, int]:
    """Bytes per token that the parts of one layer keep.

    Args:
        sizes: The model.
        item: Bytes of a number of weights and activations.
        lora: Rank of the adapters where only they are trained, else 0.

    Returns:
        Those of norms, attention and MLP, and of the adapters if there are any.

    Source: counted in `modeling_llama.py`, `modeling_qwen2.py` and `modeling_qwen3.py` of
    transformers 5. Autograd keeps the inputs of products, of one with a
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
