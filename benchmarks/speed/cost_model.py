"""Cost models fitted to measured times: a sum of non-negative costs per unit of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# At once, not after minutes of measuring; scipy is in the extra "dev".
from scipy.optimize import nnls  # type: ignore[import-untyped, unused-ignore]


def fit(rows: Sequence[Mapping[str, float]], terms: Sequence[str], time: str) -> dict[str, Any]:
    """Fit seconds as a sum of costs, each measurement weighted by the inverse of its time.

    Args:
        rows: Measurements: amounts of work, and seconds.
        terms: Names of the amounts.
        time: Name of the seconds.

    Returns:
        JSON-able: microseconds per unit of each term; R2 of the seconds; the relative errors of
        predicting each measurement from a fit to all others, as median and largest.
    """
    amounts = np.array([[row[term] for term in terms] for row in rows], dtype=np.float64)
    seconds = np.array([row[time] for row in rows], dtype=np.float64)

    def solve(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        weighted = amounts[keep] / seconds[keep, None]
        scale = np.abs(weighted).max(0)
        scale[scale == 0] = 1.0  # pairs are millions of times as many as steps
        costs: NDArray[np.float64] = nnls(weighted / scale, np.ones(len(weighted)))[0] / scale
        return costs

    everything = np.ones(len(rows), dtype=np.bool_)
    found = solve(everything)
    residual = seconds - amounts @ found
    spread = seconds - seconds.mean()
    left_out = []
    for number in range(len(rows)):
        others = everything.copy()
        others[number] = False
        left_out.append(abs(float(amounts[number] @ solve(others)) / seconds[number] - 1))
    return {
        "microseconds_per": {
            term: round(1e6 * cost, 6) for term, cost in zip(terms, found.tolist(), strict=True)
        },
        "r2": round(1 - float(residual @ residual) / float(spread @ spread), 4),
        "left_out_error_median": round(float(np.median(left_out)), 4),
        "left_out_error_max": round(max(left_out), 4),
    }
