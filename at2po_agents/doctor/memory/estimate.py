"""The memory of the GPUs of a plan: the sum of the terms in each phase, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from at2po_agents.doctor.memory.engine_terms import engine_terms
from at2po_agents.doctor.memory.learner_terms import learner_terms
from at2po_agents.doctor.memory.plan import Plan
from at2po_agents.doctor.memory.terms import ALWAYS, GIB, PHASES, UPDATE, Term
from at2po_agents.policy.sizes import Decoder

CONTEXT_BYTES = GIB // 2
"""An allowance for the CUDA context and kernels of each process."""
FRAGMENTED = 0.05
"""An allowance: the share of a GPU's memory that torch's allocator cannot use for the rest."""


@dataclass(frozen=True)
class Estimate:
    """The memory of one kind of GPU.

    Attributes:
        role: What these GPUs do.
        count: How many there are.
        terms: What each needs.
        memory: What each has, in bytes.
    """

    role: str
    count: int
    terms: tuple[Term, ...]
    memory: int

    @property
    def totals(self) -> dict[str, int]:
        """Bytes needed in each phase that these GPUs go through."""
        own = [term.phases for term in self.terms if term.phases not in (ALWAYS, UPDATE)]
        return {
            phase: sum(term.size for term in self.terms if phase in term.phases)
            for phase in PHASES
            if any(phase in phases for phases in own)
        }

    @property
    def peak(self) -> int:
        """Bytes needed in the phase that needs most."""
        return max(self.totals.values())

    @property
    def fits(self) -> bool:
        """Whether the peak is within what the GPU has."""
        return self.peak <= self.memory


def estimates(plan: Plan, sizes: Decoder) -> list[Estimate]:
    """Estimate the memory of all GPUs of a plan.

    Args:
        plan: The settings.
        sizes: The model's sizes.

    Returns:
        One estimate, or one of the GPUs that learn and one of those that generate.
    """
    memory = int(plan.machines.gib * GIB)
    learner, engine = tuple(learner_terms(plan, sizes)), tuple(engine_terms(plan, sizes))
    if not plan.colocate:
        alone = tuple(_allowances(1, memory))
        return [
            Estimate("learn", plan.learning, learner + alone, memory),
            Estimate("generate", plan.generating, engine + alone, memory),
        ]
    processes = 1 if plan.machines.total == 1 else 2
    terms = (*learner, *engine, *_allowances(processes, memory))
    return [Estimate("learn and generate in turn", plan.learning, terms, memory)]


def _allowances(processes: int, memory: int) -> Iterator[Term]:
    how = f"an allowance of 0.5 GiB for {processes} process{'es' if processes > 1 else ''}"
    yield Term("CUDA context", processes * CONTEXT_BYTES, how)
    yield Term("fragmentation", int(FRAGMENTED * memory), "an allowance of 5 % of the GPU")
