"""What a GPU holds that generates: weights, keys and values, and what one pass needs."""

from __future__ import annotations

from collections.abc import Iterator

from at2po_agents.doctor.memory.plan import Plan
from at2po_agents.doctor.memory.terms import ALWAYS, GIB, LOGIT_BYTES, Term, millions
from at2po_agents.policy.sizes import Decoder

GRAPH_BYTES = GIB
"""An allowance for vLLM's CUDA graphs and buffers, which it keeps while it is asleep."""
PASS_TOKENS, PASS_ROWS = 2048, 256
"""Tokens that both engines take in one forward pass, and the rows that vLLM decodes at a time."""


def cache_bytes(plan: Plan, sizes: Decoder) -> int:
    """Bytes of the keys and values of all sequences that the engine must be able to hold."""
    return sizes.cache_bytes(plan.item) * plan.context * plan.sequences


def engine_terms(plan: Plan, sizes: Decoder) -> Iterator[Term]:
    """Yield what a GPU needs to generate.

    Args:
        plan: The settings.
        sizes: The model's sizes.
    """
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
