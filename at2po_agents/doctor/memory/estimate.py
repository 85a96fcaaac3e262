"""The memory of the GPUs of a plan: the sum of the terms in each phase, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from at2po_agents.doctor.memory.learner_terms import learner_terms
from at2po_agents.doctor.memory.plan import Plan
from at2po_agents.doctor.memory.terms import (
    ALWAYS,
    GIB,
    LOGIT_BYTES,
    PHASES,
    UPDATE,
    Term,
    millions,
)
from at2po_agents.policy.sizes import Decoder

CONTEXT_BYTES = GIB // 2
"""An allowance for the CUDA context and kernels of each process."""
FRAGMENTED = 0.05
"""An allowance: the share of a GPU's memory that torch's allocator cannot use for the rest."""
GRAPH_BYTES = GIB
"""An allowance for vLLM's CUDA graphs and buffers, which it keeps while it is asleep."""
PASS_TOKENS, PASS_ROWS = 2048, 256
"""Tokens that both engines take in one forward pass, and the rows that vLLM decodes at a time."""


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
    """Return one estimate for all GPUs of a plan, or one for learners and one for engines."""
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


def cache_bytes(plan: Plan, sizes: Decoder) -> int:
    """Bytes of the keys and values of all sequences that the engine must be able to hold."""
    return sizes.cache_bytes(plan.item) * plan.context * plan.sequences


def engine_terms(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    """Yield what a GPU needs to generate."""
    item, sleeps = plan.item, plan.engine == "vllm" and plan.colocate
    awake = frozenset({"rollout"})
    there = awake if sleeps else ALWAYS
    rest = "; asleep in updates" if sleeps else ""
    if not plan.shares_model:
        size, how = item * sizes.parameters, f"{item} bytes x {millions(sizes.parameters)}{rest}"
        yield Term("engine's weights", size, how, there)
    size, per_token = cache_bytes(plan, sizes), sizes.cache_bytes(item)
    how = f"{plan.sequences} sequences x {plan.context:,} tokens x {per_token:,} bytes"
    if plan.engine == "vllm":
        yield Term("keys and values", size, how + rest, there)
        yield Term("vLLM's graphs", GRAPH_BYTES, "an allowance, awake or asleep")
    else:
        how += " x 1.5, as rows grow by half; kept in updates"
        yield Term("keys and values", size * 3 // 2, how)
        yield Term("keys and values, old", size, "while they are copied to longer rows", awake)
    rows = PASS_ROWS if plan.engine == "vllm" else plan.sequences
    wide = item * (3 * sizes.intermediate + 2 * sizes.hidden)
    size = PASS_TOKENS * wide + LOGIT_BYTES * rows * sizes.vocabulary
    how = f"{PASS_TOKENS:,} tokens x {wide:,} bytes, {LOGIT_BYTES} bytes x logits of {rows} rows"
    yield Term("engine's pass", size, how, awake)
