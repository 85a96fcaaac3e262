"""One collector, simulated: its sums by hand, and what can never be faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale.costs import Costs
from benchmarks.scale.rollout import collect
from benchmarks.speed.paper_step import Plan
from benchmarks.speed.step_cost import step_work
from tests.benchmarks.scale.scale_samples import SMALL, SOME, chain, draw, star

seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("rounds", [True, False])
def test_a_chain_alone_takes_what_its_parts_take(rounds: bool) -> None:
    plan = chain((3, 5, 0.7), (2, 0, 0.0))
    found = collect([plan], SOME, rounds=rounds)
    # Contexts of 10, 11 and 12 tokens, then of 18 and 19; before the latter, 1 + 5 are prefilled.
    decode = 5 * (0.05 + 0.002) + (10 + 11 + 12 + 18 + 19) * 1e-6
    prefill = 16 * 1e-4 + (55 + sum(range(13, 19))) * 1e-8
    expected = {"decode": decode, "prefill": prefill, "host": 0.002, "tools": 0.7}
    assert found.parts == pytest.approx(expected, rel=1e-12)
    assert (found.engine_steps, found.prefilled) == (5, 16)


def test_tools_are_waited_for_only_where_there_is_nothing_to_sample() -> None:
    cost = Costs(decode_step=1.0)
    quick, slow = chain((2, 1, 3.0), (2, 1, 1.0), (2, 0, 0.0)), chain((2, 1, 7.5), (2, 0, 0.0))
    # The quick one goes on at 5 and 8, the slow one at 10: its answer meets a step under way.
    free = collect([quick, slow], cost).parts
    assert (free["decode"], free["tools"]) == (8.0, 3.0 + 1.0)
    # In rounds both go on at 9.5, and the quick one once more at 12.5.
    held = collect([quick, slow], cost, rounds=True).parts
    assert (held["decode"], held["tools"]) == (6.0, 7.5 + 1.0)
    busy = chain((12, 0, 0.0))
    assert collect([slow, busy], cost).seconds == 12.0
    assert collect([slow, busy], cost, rounds=True).seconds == 14.0


def test_a_tool_answers_between_two_steps() -> None:
    cost = Costs(decode_step=1.0)
    early = collect([chain((1, 1, 3.5), (2, 0, 0.0)), chain((9, 0, 0.0))], cost)
    assert early.seconds == 9.0  # from 5 to 7, beside the other
    late = collect([chain((1, 1, 7.5), (2, 0, 0.0)), chain((9, 0, 0.0))], cost)
    assert late.seconds == 11.0  # from 9


def test_turns_wait_for_room_in_the_batch() -> None:
    cost = Costs(decode_step=1.0)
    plans = [chain((4, 0, 0.0)) for _ in range(6)]
    found = [collect(plans, cost, max_batch=n).seconds for n in (1, 2, 3, 6)]
    assert found == [24.0, 12.0, 8.0, 4.0]


def test_barriers_hold_back_forks_of_other_trees() -> None:
    cost = Costs(decode_step=1.0)

    def forked(length: int) -> Plan:
        plan = star(length, 5)
        return Plan(plan.tree, [[first] for first in plan.waves[0]])

    assert collect([forked(2), forked(9)], cost).seconds == 14.0
    assert collect([forked(2), forked(9)], cost, rounds=True).seconds == 14.0
    assert collect([forked(2), chain((9, 0, 0.0))], cost).seconds == 9.0
    assert collect([forked(2), chain((9, 0, 0.0))], cost, rounds=True).seconds == 14.0


@settings(max_examples=30)
@given(seeds, st.booleans(), st.booleans(), st.integers(1, 40))
def test_amounts_of_work_are_those_of_the_trees(
    seed: int, rounds: bool, reuse: bool, max_batch: int
) -> None:
    plans = draw(seed)
    options: dict[str, Any] = {"rounds": rounds, "reuse": reuse, "max_batch": max_batch}
    work = step_work([plan.tree for plan in plans])
    prefill = work["prefill" if reuse else "prefill_turns"]
    turns = [turn for plan in plans for turn in plan.tree.nodes() if turn.parent]
    contexts = [len(turn.parent.ids()) for turn in turns if turn.parent]
    attended = sum(
        sum(range(before, before + len(turn.sampled)))
        for turn, before in zip(turns, contexts, strict=True)
    )

    def seconds(part: str, cost: str) -> float:
        return collect(plans, Costs(**{cost: 1.0}), **options).parts[part]

    assert seconds("decode", "decode_token") == work["decode"].logits
    assert seconds("decode", "decode_pair") == attended
    assert seconds("prefill", "prefill_token") == prefill.tokens
    assert seconds("prefill", "prefill_pair") == prefill.pairs
    assert seconds("host", "turn") == len(turns)
    found = collect(plans, SOME, **options)
    assert (found.prefilled, found.pairs) == (prefill.tokens, attended + prefill.pairs)


@settings(max_examples=60)
@given(seeds, st.integers(1, 40), st.floats(0, 3))
def test_barriers_are_never_faster(seed: int, max_batch: int, tool: float) -> None:
    """But for a step of the engine per turn of a chain: an answer waits for the one under way."""
    plans = draw(seed, step=replace(SMALL, tool_seconds=tool))
    free = collect(plans, SOME, max_batch=max_batch).seconds
    held = collect(plans, SOME, max_batch=max_batch, rounds=True).seconds
    longest = max(leaf.depth for plan in plans for leaf in plan.tree.leaves())
    step = SOME.decode_step + max_batch * (SOME.decode_token + 3000 * SOME.decode_pair)
    assert free <= held + longest * 3 * step


@settings(max_examples=30)
@given(seeds, st.booleans())
def test_reuse_is_never_slower(seed: int, rounds: bool) -> None:
    plans = draw(seed, step=replace(SMALL, tool_seconds=0.0))
    kept, again = (
        collect(plans, SOME, rounds=rounds, reuse=reuse).seconds for reuse in (True, False)
    )
    assert kept <= again + 1e-9
