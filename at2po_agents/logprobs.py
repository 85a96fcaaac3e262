"""Log-probabilities of sampled tokens under a model: packed trees, and plain rows as reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch's own documentation uses
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from at2po_agents.errors import UnsupportedModelError
from at2po_agents.packing import Layout, Pack
from at2po_agents.tree import RolloutTree

#: Name under which packed attention is registered with transformers.
ATTENTION = "at2po_tree"
#: Logits held in memory at once (64 MiB in fp32); larger packs recompute them chunk by chunk.
LOGITS_AT_ONCE = 2**24


def token_logprobs(
    model: PreTrainedModel,
    pack: Pack,
    *,
    temperature: float = 1.0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Return the log-probability of every unique sampled token given its path.

    Args:
        model: A decoder with a language-model head, rotary or other explicit positions.
        pack: Packed trees, on the model's device.
        temperature: Divides the logits, above 0.
        logits_at_once: Largest number of logits held in memory; the head runs in chunks of that
            size, each recomputed in the backward pass if there are several.

    Returns:
        [S] in float32 (float64 for a float64 model), differentiable.

    Raises:
        UnsupportedModelError: If the model scales its logits or attends in windows.
    """
    head = model.get_output_embeddings()
    check_model(model)
    with tree_attention(model):
        hidden = model.base_model(
            input_ids=pack.ids, position_ids=pack.positions, use_cache=False, tree=pack.layout
        ).last_hidden_state[0]
    hidden = hidden.index_select(0, pack.predictors)
    size = max(1, logits_at_once // head.weight.shape[0])
    if len(hidden) <= size:
        return _head_logprobs(head, hidden, pack.targets, temperature)
    parts = zip(torch.split(hidden, size), torch.split(pack.targets, size), strict=True)
    return torch.cat(
        [
            checkpoint(_head_logprobs, head, part, targets, temperature, use_reentrant=False)
            for part, targets in parts
        ]
    )


def flat_logprobs(
    model: PreTrainedModel, tree: RolloutTree, *, temperature: float = 1.0
) -> list[Tensor]:
    """Score every row of a tree as a sequence of its own: slow, obvious, the reference.

    Args:
        model: A causal language model.
        tree: A complete tree.
        temperature: Divides the logits, above 0.

    Returns:
        One tensor per leaf, in the order of `tree.leaves()`: the log-probabilities of the row's
        sampled tokens.
    """
    scores = []
    for row in tree.rows():
        ids = torch.tensor(row.ids, device=model.device)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1] / temperature
        logprobs = _wide(logits).log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        scores.append(
            logprobs[torch.tensor(row.sampled[1:], dtype=torch.bool, device=model.device)]
        )
    return scores


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend along tree paths inside the block, as it did before afterwards.

    A backward pass through checkpointed layers recomputes them and belongs inside the block too.

    Args:
        model: Any transformers model that supports the attention interface.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def check_model(model: PreTrainedModel) -> None:
    """Raise if packed scoring would not be exact for a model.

    Args:
        model: The model to be trained.

    Raises:
        UnsupportedModelError: If the model scales its logits or attends in windows.
    """
    config = model.config
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1.0):
            raise UnsupportedModelError(
                f"packed scoring expects logits straight from the head, found {name}="
                f"{getattr(config, name)} in {type(model).__name__}; use a Qwen or Llama model"
            )
    windowed = {"sliding_attention", "chunked_attention"} & set(
        getattr(config, "layer_types", None) or ()
    )
    if windowed:
        raise UnsupportedModelError(
            f"packed attention expects full attention in every layer, found {sorted(windowed)} in "
            f"{type(model).__name__}; set use_sliding_window=False in its config"
        )


def _head_logprobs(head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logits = _wide(head(hidden))
    if temperature != 1.0:
        logits = logits / temperature
    return -F.cross_entropy(logits, targets, reduction="none")


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Layout,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attend along the paths of a packed tree; the signature is transformers' AttentionInterface.

    Args:
        module: The attention layer.
        query: [1, H, U, D].
        key: [1, KV, U, D] where KV divides H.
        value: [1, KV, U, D].
        attention_mask: Ignored; the layout says who sees whom.
        tree: The layout of the pack.
        scaling: Factor on the scores.
        **unused: What other implementations need (dropout stays off, so that ratios are exact).

    Returns:
        [1, U, H, D] and no weights.
    """
    heads, width = query.shape[1], query.shape[3]
    tokens = [x[0].transpose(0, 1).flatten(1) for x in (query, key, value)]
    outputs = []
    for group in tree.groups:
        places = (group.queries, group.keys, group.keys)
        q, k, v = (
            x.index_select(0, at.flatten()).view(*at.shape, -1, width).transpose(1, 2)
            for x, at in zip(tokens, places, strict=True)
        )
        mask = torch.arange(k.shape[2], device=k.device) <= group.depths[:, None, :, None]
        if not q.is_cpu:  # masked attention with fewer key heads is only fast on CPU
            k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scaling, enable_gqa=heads != k.shape[1]
        )
        outputs.append(out.transpose(1, 2).reshape(-1, heads * width))
    joined = torch.cat(outputs).index_select(0, tree.restore)
    return joined.view(1, -1, heads, width), None


AttentionInterface.register(ATTENTION, _attend)

__all__ = ["ATTENTION", "check_model", "flat_logprobs", "token_logprobs", "tree_attention"]
