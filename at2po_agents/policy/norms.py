"""Norms of a float64 model, which transformers computes in float32 whatever the model is."""

from __future__ import annotations

from typing import Protocol, cast

from torch import nn


class RMSNorm(Protocol):
    """A norm as transformers has it in Llama, Mistral, Qwen2 and Qwen3."""

    weight: nn.Parameter
    variance_epsilon: float
    training: bool


def exact_norms(model: nn.Module) -> None:
    """Let RMS norms compute in the number format of their input, so that float64 is exact.

    Without, two ways to compute the same agree to float32's rounding only: parts of a tree in
    other packs, for example.

    Args:
        model: Changed in place; norms of another kind are left as they are.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm") and hasattr(child, "variance_epsilon"):
                norm = cast(RMSNorm, child)
                exact = nn.RMSNorm(norm.weight.shape, norm.variance_epsilon)
                exact.weight = norm.weight
                setattr(parent, name, exact.train(norm.training))
