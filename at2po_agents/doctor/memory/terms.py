"""The terms that memory is made of, and the phases of a training step in which they are there.

Parameters, gradients, moments and what autograd keeps are counted, and tested against real ones;
none of it was measured on a GPU, and what is called an allowance is an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30

PHASES = {
    "rollout": "rollout",
    "packing": "packing: who attends to whom",
    "head": "head: its backward pass",
    "layers": "layers: their backward pass",
    "root": "root: its gradients, shared out",
    "step": "step: AdamW",
}
"""What happens in them; all but the first are of an update."""

ALWAYS = frozenset(PHASES)
UPDATE = ALWAYS - {"rollout"}
BACKWARD = frozenset({"head", "layers"})
GRADIENTS = BACKWARD | {"step"}

FLOAT = 4
"""Bytes of a number in float32."""
LOGIT_BYTES = 12
"""Bytes per logit of a head at work: log-probabilities and two gradients of them, in float32."""


@dataclass(frozen=True)
class Term:
    """One reason why memory is needed.

    Attributes:
        name: What it is.
        size: In bytes, per GPU.
        how: The formula in words.
        phases: When it is there.
    """

    name: str
    size: int
    how: str
    phases: frozenset[str] = ALWAYS


def millions(count: int) -> str:
    """Return a number of parameters in words."""
    return f"{count / 1e6:,.1f} M parameters"
