"""Training on many devices, simulated: no second is lost, and what can never be faster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale.costs import Costs
from benchmarks.scale.rollout import collect
from benchmarks.scale.simulation import Setup, simulate, splits
from benchmarks.scale.timeline import Piece, stage_seconds, step_seconds, time_by_part
from benchmarks.speed.paper_step import Plan
from benchmarks.speed.step_cost import step_work
from tests.benchmarks.scale.scale_samples import SMALL, SOME, chain, draw, star, steps_of

APART = Setup(colocate=False, mini_batches=1)
seeds = st.integers(0, 2**32)
sizes = st.integers(1, 6)
setups = st.builds(
    lambda n, m, together, **rest: Setup(
        collectors=n, learners=n if together else m, colocate=together, **rest
    ),
    sizes,
    sizes,
    st.booleans(),
    staleness=st.integers(0, 2),
    rounds=st.booleans(),
    packed=st.booleans(),
    whole=st.booleans(),
    mini_batches=st.integers(1, 4),
    token_budget=st.integers(100, 10**4),
)


@settings(max_examples=60)
@given(seeds, setups)
def test_every_second_of_every_device_is_accounted_for(seed: int, setup: Setup) -> None:
    pieces = simulate(steps_of(seed), setup, SOME)
    end = max(piece.end for piece in pieces)
    actors = {piece.actor for piece in pieces}
    both = setup.collectors + setup.learners
    assert len(actors) == (setup.collectors if setup.colocate else both)
    for actor in actors:
        own = [piece for piece in pieces if piece.actor == actor]
        assert own[0].start == 0.0 and own[-1].end == pytest.approx(end)
        for before, after in zip(own, own[1:], strict=False):
            assert before.end == after.start
        for piece in own:
            assert piece.seconds == pytest.approx(sum(piece.parts.values()))
            assert min(piece.parts.values()) >= 0
    assert sum(time_by_part(pieces).values()) == pytest.approx(1)


def test_one_device_takes_the_sum_of_its_parts() -> None:
    steps = steps_of(1)
    pieces = simulate(steps, Setup(mini_batches=2), SOME)
    expected = 0.0
    for trees in steps:
        own = collect(trees, SOME).seconds
        work = step_work([plan.tree for plan in trees])["packed"]
        learned = SOME.training(work) + 2 * SOME.optimizer
        expected += SOME.load + own + learned + SOME.publish + 2 * SOME.switch
    assert pieces[-1].end == pytest.approx(expected)
    spent = time_by_part(pieces)
    assert "other side" not in spent and "stragglers" not in spent and "imbalance" not in spent


def test_updates_by_hand() -> None:
    """Two mini-batches of trees of 12 and 8 tokens on two ranks; half of 20 bytes exchanged."""
    trees = [chain((n, 0, 0.0), prompt=2) for n in (10, 6, 10, 6)]
    setup = Setup(collectors=2, learners=2, mini_batches=2)
    costs = Costs(train_token=1.0, optimizer=3.0, exchanged=20.0, node=2)
    for overlap, exposed in ((0.0, 10.0), (0.5, 4.0), (1.0, 0.0)):
        one, two = updated(trees, setup, replace(costs, overlap=overlap))
        common = {"exchange": 2 * exposed, "optimizer": 3.0}
        assert one == {"learn": 24.0, **common, "imbalance": 0.0}
        assert two == {"learn": 16.0, **common, "imbalance": 8.0}


def test_cut_trees_by_hand() -> None:
    """A tree of three rows of 12 tokens, which share a prompt of 2, on two ranks."""
    tree = star(10, 10, 10, prompt=2)
    setup = Setup(collectors=2, learners=2, mini_batches=1)
    costs = Costs(train_token=1.0, exchanged=20.0, node=2, overlap=0.0)
    none = {"optimizer": 0.0}
    assert updated([tree], replace(setup, whole=True), costs) == [
        {"learn": 32.0, "exchange": 10.0, "imbalance": 0.0, **none},
        {"learn": 0.0, "exchange": 10.0, "imbalance": 32.0, **none},
    ]
    assert updated([tree], setup, costs) == [
        {"learn": 22.0, "exchange": 10.0, "imbalance": 0.0, **none},
        {"learn": 12.0, "exchange": 10.0, "imbalance": 10.0, **none},
    ]
    # Rows alone in two passes, in each of which ranks wait for each other.
    assert updated([tree], replace(setup, token_budget=12), costs) == [
        {"learn": 24.0, "exchange": 20.0, "imbalance": 0.0, **none},
        {"learn": 12.0, "exchange": 20.0, "imbalance": 12.0, **none},
    ]
    assert updated([tree], replace(setup, token_budget=12, packed=False), costs) == [
        {"learn": 24.0, "exchange": 20.0, "imbalance": 0.0, **none},
        {"learn": 12.0, "exchange": 20.0, "imbalance": 12.0, **none},
    ]


def updated(trees: list[Plan], setup: Setup, costs: Costs) -> list[dict[str, float]]:
    pieces = simulate([trees], setup, costs)
    found = {piece.actor: dict(piece.parts) for piece in pieces if piece.stage == "update"}
    return [found[actor] for actor in sorted(found)]


def test_trees_without_credit_are_not_learned_from() -> None:
    trees = steps_of(2, 1)
    for tree in trees[0]:
        tree.learned = False
    pieces = simulate(trees, Setup(collectors=2, learners=2), replace(SOME, optimizer=0.0))
    assert stage_seconds(pieces, "update", skip=0) == 0.0


@settings(max_examples=40)
@given(seeds, setups)
def test_a_stale_step_is_never_slower(seed: int, setup: Setup) -> None:
    steps = steps_of(seed)
    ends = [
        max(piece.end for piece in simulate(steps, replace(setup, staleness=k), SOME))
        for k in range(3)
    ]
    assert ends[0] >= ends[1] >= ends[2]
    if setup.colocate:
        assert ends[0] == ends[2]


@settings(max_examples=40)
@given(seeds, setups, st.booleans())
def test_more_devices_are_never_slower(seed: int, setup: Setup, learners: bool) -> None:
    """With twice the collectors each has half the questions; ranks never wait within updates."""
    costs = replace(SOME, exchanged=0.0, train_pair=0.0, train_logit=0.0)
    steps = [draw(seed, 8, replace(SMALL, tool_seconds=0.0))]
    setup = replace(setup, colocate=False, token_budget=10**6)
    more = (
        replace(setup, learners=setup.learners + 1)
        if learners
        else replace(setup, collectors=1 << (setup.collectors - 1).bit_length() + 1)
    )
    if not learners:
        setup = replace(setup, collectors=more.collectors // 2)
    one, two = (simulate(steps, each, costs)[-1].end for each in (setup, more))
    assert two <= one + 1e-9


def test_work_overlaps_where_it_may() -> None:
    """Collecting 4 s and learning 6 s on devices apart: 10 s a step, or 6 one update behind."""
    trees = [[chain((4, 0, 0.0), prompt=2)] for _ in range(6)]
    costs = Costs(decode_step=1.0, train_token=1.0)
    assert step_seconds(simulate(trees, APART, costs)) == 10.0
    assert step_seconds(simulate(trees, replace(APART, staleness=1), costs)) == 6.0
    assert step_seconds(simulate(trees, Setup(mini_batches=1, staleness=1), costs)) == 10.0


def test_learners_do_not_wait_for_stragglers_of_a_step_that_may_be_stale() -> None:
    """Shares of 2 and 10 s: one collector does two steps' quick ones first, then helps out."""
    steps = [[chain((2, 0, 0.0)), chain((10, 0, 0.0))] for _ in range(3)]
    costs = Costs(decode_step=1.0, optimizer=1.0)
    setup = replace(APART, collectors=2)
    first = {}
    for staleness in (0, 1):
        pieces = simulate(steps, replace(setup, staleness=staleness), costs)
        first[staleness] = next(piece for piece in pieces if piece.stage == "update").start
    assert first == {0: 10.0, 1: 4.0}
    # Step 1's slow share began at 4 on the quick one; step 2 was asked for at 5.
    collected = [(p.actor, p.step, p.start, p.end) for p in pieces if p.stage == "collect"]
    assert collected == [
        ("collector-0", 0, 0.0, 2.0),
        ("collector-1", 0, 0.0, 10.0),
        ("collector-0", 1, 2.0, 4.0),
        ("collector-0", 1, 4.0, 14.0),
        ("collector-1", 2, 10.0, 12.0),
        ("collector-1", 2, 12.0, 22.0),
    ]


@settings(max_examples=40)
@given(seeds, setups)
def test_cut_trees_are_never_learned_from_more_slowly(seed: int, setup: Setup) -> None:
    """By tokens, which is what ranks share out by."""
    trees, costs = draw(seed, 8), Costs(train_token=1.0)
    cut, whole = (
        simulate([trees], replace(setup, packed=True, whole=each), costs) for each in (False, True)
    )
    seconds = [stage_seconds(pieces, "update", skip=0) for pieces in (cut, whole)]
    assert seconds[0] <= seconds[1]
    if setup.learners == 1:
        assert seconds[0] == seconds[1] >= sum(plan.tree.unique_tokens for plan in trees)


def test_splits_leave_somebody_on_either_side() -> None:
    assert [(s.collectors, s.learners) for s in splits(2, APART)] == [(1, 1)]
    assert len(splits(8, APART)) == 7
    assert {s.collectors + s.learners for s in splits(12, APART)} == {12}
    assert splits(3, Setup()) == [Setup(collectors=3, learners=3)]


def test_timelines_are_added_up() -> None:
    pieces = [
        Piece(actor, stage, step, 10.0 * step + start, 10.0 * step + end)
        for step in range(3)
        for actor, stage, start, end in (
            ("collector-0", "collect", 0, 4),
            ("collector-1", "collect", 0, 6),
            ("collector-1", "wait", 6, 10),
            ("learner-0", "update", 6, 9 + step / 10),
        )
    ]
    assert pieces[2].seconds == 4
    assert step_seconds(pieces) == pytest.approx(10.1)
    assert stage_seconds(pieces, "collect") == pytest.approx(6)
    assert stage_seconds(pieces, "update", skip=2) == pytest.approx(3.2)
    assert stage_seconds(pieces, "eval") == 0.0
    assert time_by_part(pieces, "collector-1") == pytest.approx({"collect": 0.6, "wait": 0.4})
