"""Tests of a difference between evaluations, and the least difference that a set can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import ComparisonError
from benchmarks.statistics.intervals import Z

POWER = 0.8

_Z_POWER = NormalDist().inv_cdf(POWER)


def bootstrap_p(draws: NDArray[np.float64]) -> float:
    """Return a two-sided p-value for "no difference": how far out zero lies among the draws.

    It is below 0.05 where the interval leaves zero out, and never below 2 / (draws + 1).

    Args:
        draws: [draws], of a difference.

    Source: inversion of the percentile interval, one draw added to either side (Davison and
        Hinkley, 1997, Bootstrap Methods and their Application, section 4.4).
    """
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(draws)))


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the mid-p value of McNemar's test, at every number of discordant pairs.

    The binomial probabilities are exact. Mid-p counts half of the observed outcome's own
    probability: the fully exact test is needlessly conservative with few discordant pairs, the
    chi-square is not reliable there, and with many all three agree.

    Args:
        first_only: Questions that the first alone has right, >= 0.
        second_only: Questions that the second alone has right, >= 0.

    Returns:
        Two-sided p-value for "both are equally often right", in (0, 1].

    Raises:
        ComparisonError: If a number is negative.

    Source: Fagerland, Lydersen and Laake (2013), The McNemar test for binary matched-pairs data:
        mid-p and asymptotic are better than exact conditional.
    """
    _check_count("first_only", first_only, 0)
    _check_count("second_only", second_only, 0)
    pairs, fewer = first_only + second_only, min(first_only, second_only)
    ways, tail = 1, 0  # whole numbers, so that nothing is lost
    for number in range(fewer):
        tail += ways
        ways = ways * (pairs - number) // (number + 1)
    return (2 * tail + ways) / (1 << pairs)  # 2 P(X < fewer) + P(X = fewer)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that 0.05 bounds the chance of any false rejection among them.

    Args:
        p_values: One for each comparison, in [0, 1].

    Returns:
        The adjusted values, in the same order.

    Raises:
        ComparisonError: If one is out of range.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        _check_share("p-value", p_values[place])
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def detectable(standard_error: float) -> float:
    """Return the least difference found with 80 % power, from the difference's standard error.

    Args:
        standard_error: For instance the standard deviation of what `resample` drew.

    Source: normal theory, two-sided alpha 0.05: (z_a + z_b) standard errors.
    """
    return (Z + _Z_POWER) * standard_error


def detectable_paired(questions: int, discordant: float) -> float | None:
    """Return the least difference in accuracy that McNemar's test finds with 80 % power.

    Args:
        questions: Questions that both answer, >= 1.
        discordant: Share of questions that exactly one of the two has right, in [0, 1]. A
            difference needs at least as many discordant pairs; where this share is too small for
            any, it is taken to be the difference itself.

    Returns:
        The difference, in (0, 1]; None where none would be found.

    Raises:
        ComparisonError: If a number is out of range.

    Source: Connor (1987), Sample size for testing differences in proportions for the paired-sample
        design: n = (z_a sqrt(s) + z_b sqrt(s - d^2))^2 / d^2, solved for the difference d; s is the
        discordant share, two-sided alpha 0.05.
    """
    _check_count("questions", questions, 1)
    _check_share("discordant", discordant)
    inner = questions + _Z_POWER**2 - Z**2
    if inner < 0:
        return None
    # d = scale sqrt(s); with s = d it is scale^2.
    scale = (Z * math.sqrt(questions) + _Z_POWER * math.sqrt(inner)) / (questions + _Z_POWER**2)
    found = scale * max(math.sqrt(discordant), scale)
    return found if found <= 1 else None


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ComparisonError(f"{name}: expected a share in [0, 1], found {value}; divide by 100?")


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ComparisonError(f"{name}: expected at least {least}, found {value}; raise it")
