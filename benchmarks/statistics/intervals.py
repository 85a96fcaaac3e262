"""Confidence intervals: of a rate, and by resampling questions and training seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import ComparisonError

Scores = NDArray[np.float64]

ALPHA = 0.05  # an interval leaves out half of it on either side
DRAWS = 2000
_BLOCK = 1000  # draws at a time; it bounds the memory

Z = NormalDist().inv_cdf(1 - ALPHA / 2)


def wilson(rate: float, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a rate.

    Args:
        rate: Share of successes, in [0, 1].
        trials: Number of independent trials, >= 1.

    Returns:
        Lower and upper bound, in [0, 1].

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    shrink = 1 / (1 + Z**2 / trials)
    centre = shrink * (rate + Z**2 / (2 * trials))
    half = shrink * Z * math.sqrt(rate * (1 - rate) / trials + Z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def resample(
    scores: Sequence[Sequence[Scores]], *, draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """Resample questions and training seeds, with replacement, and take the means.

    All methods answer the questions drawn, so a difference of their means is a paired one. Each
    method has its own seeds; they are drawn once for all sets, as a trained model answers all
    sets. A single seed says nothing about other seeds: the draws are then over questions only.
    With as few as three seeds the spread is too narrow rather than too wide.

    Args:
        scores: For each method and each set an array [seeds, questions], for instance of 0 and 1.
        draws: Number of draws, >= 1.
        seed: Seed of the draws.

    Returns:
        [draws, methods, sets], the means.

    Raises:
        ComparisonError: If the arrays do not fit each other, or one is empty.

    Source: the bootstrap of crossed factors in Owen (2007), The pigeonhole bootstrap (Annals of
        Applied Statistics 1).
    """
    _check(scores, draws)
    rng = np.random.default_rng(seed)
    # Questions with the same scores in all runs are alike: it is enough to draw how many of each
    # kind there are. That is fast, and the order of questions changes nothing.
    kinds = [
        np.unique(np.concatenate(runs), axis=1, return_counts=True)
        for runs in zip(*scores, strict=True)
    ]
    blocks = [min(_BLOCK, draws - done) for done in range(0, draws, _BLOCK)]
    seeds = [len(sets[0]) for sets in scores]
    return np.concatenate([_means(kinds, seeds, rng, block) for block in blocks])


def _means(
    kinds: Sequence[tuple[Scores, NDArray[np.intp]]],
    seeds: Sequence[int],
    rng: np.random.Generator,
    draws: int,
) -> NDArray[np.float64]:
    """Draw [draws, methods, sets]; a set's kinds are [all runs, kinds] with how many there are."""
    weights = [rng.multinomial(runs, [1 / runs] * runs, size=draws) / runs for runs in seeds]
    means = np.empty((draws, len(seeds), len(kinds)))
    for number, (scores, counts) in enumerate(kinds):
        questions = counts.sum()
        drawn = rng.multinomial(questions, counts / questions, size=draws)
        by_run = np.split(drawn @ scores.T / questions, np.cumsum(seeds)[:-1], axis=1)
        for method, runs in enumerate(by_run):
            means[:, method, number] = (runs * weights[method]).sum(axis=1)
    return means


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of what was drawn.

    Args:
        draws: [draws], of `resample` or differences of such.

    Returns:
        The 2.5 % and the 97.5 % quantile.
    """
    low, high = np.quantile(draws, (ALPHA / 2, 1 - ALPHA / 2))
    return float(low), float(high)


def bootstrap(scores: Scores, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % interval of a mean over seeds and questions.

    Args:
        scores: [seeds, questions], for instance 0 or 1, or a difference of such.
        seed: Seed of the draws.

    Returns:
        The 2.5 % and 97.5 % quantiles of the mean.

    Raises:
        ComparisonError: If there is nothing to draw from.
    """
    return interval(resample([[scores]], seed=seed)[:, 0, 0])


def _check(scores: Sequence[Sequence[Scores]], draws: int) -> None:
    if draws < 1:
        raise ComparisonError(f"draws: expected at least 1, found {draws}; raise it")
    if not scores or not scores[0]:
        raise ComparisonError("expected scores of at least one method and one set, found none")
    shapes = [[array.shape for array in sets] for sets in scores]
    for sets in shapes:
        if any(len(shape) != 2 or 0 in shape for shape in sets):
            raise ComparisonError(f"expected arrays [seeds, questions], none empty, found {sets}")
        if len({seeds for seeds, _ in sets}) > 1:
            raise ComparisonError(f"expected the same seeds in every set, found {sets}")
        if [n for _, n in sets] != [n for _, n in shapes[0]]:
            raise ComparisonError(
                f"expected the same questions for all methods, found {shapes[0]} and {sets}"
            )
