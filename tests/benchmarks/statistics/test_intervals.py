"""Intervals: known values, what they may not depend on, and how often they hold the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.errors import ComparisonError
from benchmarks.statistics.intervals import Scores, bootstrap, interval, resample, wilson


def answers(rng: np.random.Generator, rates: Scores) -> Scores:
    """One evaluation: right with these chances, [1, questions]."""
    return (rng.random((1, len(rates))) < rates).astype(float)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson(successes / trials, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_is_symmetric(case: tuple[int, int]) -> None:
    successes, trials = case
    low, high = wilson(successes / trials, trials)
    assert (
        0 <= low <= successes / trials + 1e-12 and successes / trials <= high + 1e-12 <= 1 + 1e-12
    )
    assert wilson(1 - successes / trials, trials) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_a_seed_fixes_the_draws() -> None:
    scores = np.random.default_rng(0).random((3, 40))
    first, again, other = (resample([[scores]], draws=50, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=20)
@given(st.permutations(range(12)))
def test_the_order_of_questions_changes_nothing(order: list[int]) -> None:
    scores = np.random.default_rng(3).integers(0, 2, (2, 12)).astype(float)
    assert bootstrap(scores[:, order]) == bootstrap(scores)


def test_one_seed_and_one_set_is_the_ordinary_bootstrap() -> None:
    scores = np.random.default_rng(1).random((1, 200))
    draws = resample([[scores]], draws=4000)[:, 0, 0]
    assert draws.mean() == pytest.approx(scores.mean(), abs=0.002)
    assert draws.std() == pytest.approx(scores.std() / 200**0.5, rel=0.05)


def test_differences_are_paired_and_change_sign_with_the_order() -> None:
    rng = np.random.default_rng(2)
    rates = rng.random(150)
    first, second = answers(rng, rates), answers(rng, rates)
    draws = resample([[first], [second]])[:, :, 0]
    low, high = interval(draws[:, 1] - draws[:, 0])
    assert (low, high) == pytest.approx(bootstrap(second - first), abs=0.01)
    swapped = resample([[second], [first]])[:, :, 0]
    assert interval(swapped[:, 1] - swapped[:, 0]) == pytest.approx((-high, -low), abs=0.01)
    # Unpaired it would be wider.
    apart = interval(draws[:, 1] - resample([[first]], seed=1)[:, 0, 0])
    assert apart[1] - apart[0] > 1.1 * (high - low)
    same = resample([[first], [first]])
    assert np.allclose(same[:, 0], same[:, 1])


def test_seeds_are_drawn_once_for_all_sets() -> None:
    # Two sets on which a run is equally good: runs differ, questions do not.
    runs = np.repeat(np.array([[0.0], [0.5], [1.0]]), 8, axis=1)
    draws = resample([[runs, runs]])
    assert np.allclose(draws[:, 0, 0], draws[:, 0, 1])
    assert draws.std() > 0.1
    # Another method has its own seeds.
    both = resample([[runs], [runs]])[:, :, 0]
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "none"),
        ([[np.ones((1, 0))]], "none empty"),
        ([[np.ones(3)]], r"\[seeds, questions\]"),
        ([[np.ones((2, 3)), np.ones((1, 3))]], "same seeds"),
        ([[np.ones((1, 3))], [np.ones((1, 4))]], "same questions"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: list[list[Scores]], message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        resample(scores)


def covered(
    draw: Callable[[np.random.Generator], tuple[float, float]], truth: float, repetitions: int
) -> float:
    """Share of intervals that hold the truth; `draw` makes one from a generator."""
    rng = np.random.default_rng(7)
    bounds = [draw(rng) for _ in range(repetitions)]
    return sum(low <= truth <= high for low, high in bounds) / repetitions


@pytest.mark.slow
@pytest.mark.parametrize("questions", [27, 100, 300])
def test_paired_intervals_hold_the_truth_as_often_as_they_say(questions: int) -> None:
    def draw(rng: np.random.Generator) -> tuple[float, float]:
        easy = rng.random(questions)  # new questions each time
        first = rng.random(questions) < 0.8 * easy
        second = rng.random(questions) < 0.8 * easy + 0.1
        return bootstrap((second.astype(float) - first)[None])

    # Few questions make percentile intervals a little too narrow: 92 % rather than 95 % of 27.
    assert covered(draw, 0.1, 600) == pytest.approx(0.95, abs=0.045 if questions < 100 else 0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.75, 0.92), (6, 0.89, 0.98)])
def test_intervals_over_three_seeds_are_too_narrow_and_over_more_hardly(
    seeds: int, least: float, most: float
) -> None:
    def draw(rng: np.random.Generator) -> tuple[float, float]:
        luck = rng.normal(0, 0.1, size=(seeds, 1))  # far more than the questions' part
        hard = rng.uniform(0.4, 0.6, size=(1, 200))
        return bootstrap((rng.random((seeds, 200)) < hard + luck).astype(float))

    assert least <= covered(draw, 0.5, 400) <= most
