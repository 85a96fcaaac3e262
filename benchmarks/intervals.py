"""Confidence intervals."""

from __future__ import annotations

import math

_Z = 1.959964  # 97.5 % quantile of the standard normal distribution


def wilson(rate: float, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a rate.

    Args:
        rate: Share of successes, in [0, 1].
        trials: Number of independent trials, >= 1.

    Returns:
        Lower and upper bound, in [0, 1].

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    shrink = 1 / (1 + _Z**2 / trials)
    centre = shrink * (rate + _Z**2 / (2 * trials))
    half = shrink * _Z * math.sqrt(rate * (1 - rate) / trials + _Z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)
