"""Tests of differences: published values, scipy's, and invariants that hold for any counts."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from benchmarks.statistics.significance import (
    bootstrap_p,
    detectable_paired,
    detectable_unpaired,
    holm,
    mcnemar,
)

COUNTS = st.integers(0, 60)
MANY = st.integers(5000, 5400)
P_VALUES = st.lists(st.floats(0, 1), max_size=8)


def test_mcnemar_gives_the_published_value() -> None:
    # Fagerland, Lydersen and Laake (2013), table 6: airway reactivity, 1 against 7 of 21 children.
    assert mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)


@given(COUNTS | MANY, COUNTS | MANY)
def test_mcnemar_agrees_with_scipy(first: int, second: int) -> None:
    pairs = first + second
    exact = binomtest(first, pairs).pvalue if pairs else 1.0
    point = binom.pmf(first, pairs, 0.5)
    expected = exact - point if first != second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, abs=1e-9)


@given(COUNTS, COUNTS)
def test_mcnemar_does_not_care_who_is_first(first: int, second: int) -> None:
    assert mcnemar(first, second) == mcnemar(second, first)
    assert 0 < mcnemar(first, second) <= 1
    assert mcnemar(first, first) == 1
    assert mcnemar(first, first + second + 1) < mcnemar(first, first + second)


def test_holm_gives_a_known_adjustment() -> None:
    # By hand: 3 x 0.01, 2 x 0.03, 1 x 0.04 raised to the value before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@given(P_VALUES)
def test_holm_lies_between_the_raw_values_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for raw, new in zip(p_values, adjusted, strict=True):
        assert raw <= new <= min(1.0, len(p_values) * raw) + 1e-15
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_holm_does_not_depend_on_the_order(p_values: list[float]) -> None:
    for order in permutations(range(3)):
        assert holm([p_values[i] for i in order]) == [holm(p_values)[i] for i in order]


def test_bootstrap_p_counts_the_draws_beyond_zero() -> None:
    draws = np.array([-1.0, 0.0, *[1.0] * 97])
    assert bootstrap_p(draws) == pytest.approx(2 * 3 / 100)
    assert bootstrap_p(-draws) == bootstrap_p(draws)
    assert bootstrap_p(np.zeros(99)) == 1.0
    assert bootstrap_p(np.ones(99)) == pytest.approx(0.02)


def power(questions: int, discordant: float, difference: float) -> float:
    """Power of the mid-p test: a sum over all numbers of discordant pairs and their split."""
    share = (1 + difference / discordant) / 2
    total = 0.0
    for pairs in range(questions + 1):
        chance = binom.pmf(pairs, questions, discordant)
        if chance < 1e-6:
            continue
        rejected = [k for k in range(pairs + 1) if mcnemar(k, pairs - k) <= 0.05]
        total += chance * binom.pmf(rejected, pairs, share).sum()
    return float(total)


@pytest.mark.parametrize(("questions", "discordant"), [(100, 0.3), (250, 0.2), (400, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(
    questions: int, discordant: float
) -> None:
    difference = detectable_paired(questions, discordant)
    assert difference is not None
    assert power(questions, discordant, difference) == pytest.approx(0.8, abs=0.02)


@given(st.integers(8, 20_000), st.floats(0, 1))
def test_the_detectable_difference_is_possible_and_falls_with_size(
    questions: int, discordant: float
) -> None:
    small, large = detectable_paired(4 * questions, discordant), detectable_paired(questions, 1.0)
    own = detectable_paired(questions, discordant)
    assert small is not None and own is not None and large is not None
    assert 0 < small < own <= large <= 1


def test_the_detectable_difference_solves_its_formula() -> None:
    difference, z, z_power = detectable_paired(500, 0.2), 1.959964, 0.841621
    assert difference is not None
    root = z * math.sqrt(0.2) + z_power * math.sqrt(0.2 - difference**2)
    assert (root / difference) ** 2 == pytest.approx(500, rel=1e-5)


def test_where_nothing_can_be_found_there_is_no_difference() -> None:
    assert detectable_paired(1, 0.5) is None
    assert detectable_paired(3, 0.0) is None
    assert detectable_unpaired(100, 1.0) is None
    assert detectable_unpaired(5, 0.9) is None


@pytest.mark.parametrize(
    ("rate", "other", "questions"),
    # R's power.prop.test(p1=, p2=, power=0.8): n = 151.9 and 57.7; the first is in Fleiss, too.
    [(0.25, 0.40, 152), (0.50, 0.75, 58)],
)
def test_the_unpaired_difference_is_that_of_the_textbook(
    rate: float, other: float, questions: int
) -> None:
    assert detectable_unpaired(questions, rate) == pytest.approx(other - rate, abs=1e-3)
