"""Attention along the paths of packed trees: a token sees what stands before it on its path.

The tokens of trees stand in depth-first order, so whatever follows a token in its tree stands right
behind it, up to the token's `end`. Query i therefore sees key j if j <= i < ends[j], and that one
comparison is the whole pattern: siblings and other trees are kept apart by it, too.

A 4-D mask would say the same at the cost of all pairs of tokens. Here nothing is computed that is
not seen: on CPUs runs of tokens meet runs of tokens (`_PathAttention`), on CUDA FlexAttention skips
the blocks that its block mask leaves empty. The latter was not run on a GPU by us: tests compare
its uncompiled form with the former on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from at2po_agents.errors import UnsupportedModelError
from at2po_agents.policy.sizes import optional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Name under which packed attention is registered with transformers.
ATTENTION = "at2po_tree"
#: Types of devices that attend by FlexAttention; tests add "cpu", where it runs uncompiled.
_FLEX = {"cuda"}

#: Tokens [start, stop) with one end, and that end: they see themselves causally, and all tokens of
#: [stop, end) see all of them.
Spans = tuple[tuple[int, int, int], ...]
Pattern = Spans | BlockMask


def pattern(ends: NDArray[np.int64], device: torch.device) -> Pattern:
    """Say who sees whom, in the form that a device's attention takes.

    Args:
        ends: [U] where the tokens that may follow each token stop.
        device: Where the attention runs.

    Returns:
        Spans, or a block mask for FlexAttention (which is made from U x U booleans).
    """
    if device.type in _FLEX:
        there = torch.from_numpy(ends).to(device)

        def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query < there[key])

        return create_block_mask(seen, None, None, len(ends), len(ends), device=str(device))
    edges = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(ends)]
    return tuple(
        (start, stop, int(ends[start])) for start, stop in zip(edges, edges[1:], strict=False)
    )


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend along tree paths inside the block, as it did before afterwards.

    A backward pass through checkpointed layers recomputes them and belongs inside the block too.

    Args:
        model: A transformers model that supports the attention interface.
    """
    from transformers import AttentionInterface  # settings import this module, but no model

    AttentionInterface.register(ATTENTION, _attend)
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
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if (factor := optional(model.config, name)) not in (None, 1.0):
            raise UnsupportedModelError(
                f"packed scoring expects logits straight from the head, found "
                f"{name}={factor} in {type(model).__name__}; use a Qwen or Llama model"
            )
    windowed = {"sliding_attention", "chunked_attention"}.intersection(
        optional(model.config, "layer_types") or ()
    )
    if windowed:
        raise UnsupportedModelError(
            f"packed attention expects full attention in every layer, found {sorted(windowed)} in "
            f"{type(model).__name__}; set use_sliding_window=False in its config"
        )


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Pattern,
    scaling: float | None = None,
    **unused: object,
) -> tuple[Tensor, None]:
    """Attend along the paths of a pack; the signature is transformers' AttentionInterface.

    Args:
        module: The attention layer.
        query: [1, H, U, D].
        key: [1, KV, U, D] where KV divides H.
        value: [1, KV, U, D].
        attention_mask: Ignored; the pattern says who sees whom.
        tree: The pattern of the pack.
        scaling: Factor on the scores; None is 1 / sqrt(D).
        **unused: What other implementations need (dropout stays off, so that ratios are exact).

    Returns:
        [1, U, H, D] and no weights. Softmax and its sums are float32 or wider in every case.
    """
    shared = query.shape[1] // key.shape[1]
    if isinstance(tree, BlockMask):
        flex = _compiled() if query.is_cuda else flex_attention
        attend = cast("Callable[..., Tensor]", flex)
        out = attend(query, key, value, block_mask=tree, scale=scaling, enable_gqa=shared > 1)
    else:
        key, value = (x.repeat_interleave(shared, 1) if shared > 1 else x for x in (key, value))
        out = _PathAttention.apply(query, key, value, tree, scaling)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


@cache
def _compiled() -> object:
    """FlexAttention is only fast, and only small, when compiled; dynamic, as every pack differs."""
    return torch.compile(flex_attention, dynamic=True)


class _PathAttention(torch.autograd.Function):
    """Exact attention from torch's flash kernels for CPUs, one call per span and what follows it.

    A token's keys are split among calls; their outputs are merged by the logarithms of their sums.
    Given the merged output and sum, the kernel's backward yields each call's share of the gradient.

    Source: the split of keys is that of FlashAttention (arXiv 2205.14135), Algorithms 1 and 4.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float | None
    ) -> Tensor:
        """Return [1, H, U, D]; all of the arguments have H heads."""
        wide = torch.promote_types(query.dtype, torch.float32)
        out = query.transpose(1, 2).new_empty(query.transpose(1, 2).shape, dtype=wide)
        out = out.transpose(1, 2)
        sums = query.new_empty(query.shape[:3], dtype=wide)
        for start, stop, end in reversed(spans):
            own, below = slice(start, stop), slice(stop, end)
            k, v = key[:, :, own], value[:, :, own]
            out[:, :, own], sums[:, :, own] = _forward(
                query[:, :, own], k, v, 0.0, True, scale=scale
            )
            if stop < end:
                part, total = _forward(query[:, :, below], k, v, 0.0, False, scale=scale)
                before = sums[:, :, below]
                weight = (total - before).sigmoid()[..., None]
                out[:, :, below].lerp_(part.to(wide), weight)
                sums[:, :, below] = torch.logaddexp(before, total)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.spans, ctx.scale = spans, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, out, sums = ctx.saved_tensors
        grads = [torch.zeros_like(x, dtype=sums.dtype) for x in (query, key, value)]
        for start, stop, end in ctx.spans:
            own = slice(start, stop)
            for causal, seeing in ((True, own), (False, slice(stop, end))):
                if seeing.start == seeing.stop:
                    continue
                q, o, s, g = (x[:, :, seeing] for x in (query, out, sums, grad))
                k, v = key[:, :, own], value[:, :, own]
                parts = _backward(g, q, k, v, o, s, 0.0, causal, scale=ctx.scale)
                for total, at, part in zip(grads, (seeing, own, own), parts, strict=True):
                    total[:, :, at] += part
        return (
            *(g.to(x.dtype) for g, x in zip(grads, (query, key, value), strict=True)),
            None,
            None,
        )


_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
