"""The paper's Table 1, typed; `benchmarks.paper.check` says which of its figures fit together.

Source: arXiv 2601.04767, Tables 1, 3 and 5; the sizes of the sets are FlashRAG's and add up to the
totals of the paper's Figure 4. All figures are exact match in percent, as printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

ROUNDING = Fraction("0.005")
"""A figure printed with two decimals is within this of what it was."""

MULTI_HOP = {"HotpotQA": 7405, "2WikiMultiHopQA": 12576, "MuSiQue": 2417, "Bamboogle": 125}
SINGLE_HOP = {"NQ": 3610, "TriviaQA": 11313, "PopQA": 14267}
SIZES: Mapping[str, int] = MULTI_HOP | SINGLE_HOP
"""Questions of each set: the test split if there is one, the dev split if not."""

_T1 = """
Qwen3-4B   ReAct     30.42 32.92 12.83 44.8 30.01  26.75 53.53 35.34 41.31
Qwen3-4B   GRPO      44.76 51.40 21.60 50.4 46.02  45.98 65.17 49.18 54.97
Qwen3-4B   DAPO      45.95 51.81 21.68 51.2 46.65  47.50 65.84 51.03 56.33
Qwen3-4B   GSPO      47.07 49.25 22.68 50.4 45.69  46.01 64.24 48.50 54.28
Qwen3-4B   AEPO      46.36 51.78 23.47 50.4 46.95  45.71 64.66 50.13 55.20
Qwen3-4B   AT²PO     49.44 52.99 24.80 56.8 48.81  47.90 65.32 51.81 56.44
Qwen3-8B   ReAct     20.66 19.05  9.56 37.6 18.66  21.16 41.81 27.37 32.19
Qwen3-8B   GRPO      47.01 53.69 21.35 54.4 48.03  45.70 67.42 50.17 56.29
Qwen3-8B   DAPO      49.64 53.91 24.05 56.0 49.40  51.99 69.02 51.90 58.53
Qwen3-8B   GSPO      49.59 52.55 24.35 54.4 48.56  45.56 67.75 49.66 56.15
Qwen3-8B   AEPO      49.17 52.97 24.01 54.4 48.62  49.92 68.31 51.77 57.94
Qwen3-8B   AT²PO     51.37 53.97 26.51 56.0 50.15  51.33 69.51 52.26 58.82
Qwen2.5-7B ReAct      2.85  1.94  0.58  4.0  2.10   4.34 10.67  9.32  9.23
Qwen2.5-7B GRPO      47.94 46.89 21.27 47.2 44.48  45.56 64.86 49.92 55.20
Qwen2.5-7B DAPO      47.50 47.93 21.27 44.0 44.91  52.24 65.00 50.01 56.08
Qwen2.5-7B GSPO      47.35 47.30 20.32 44.0 44.40  49.64 62.87 49.75 54.81
Qwen2.5-7B Tree-GRPO 42.39 42.01 20.15 42.4 39.79  47.56 62.69 44.75 52.04
Qwen2.5-7B AEPO      47.05 47.53 21.03 44.0 44.51  49.00 64.13 50.21 55.45
Qwen2.5-7B AT²PO     49.58 48.04 22.56 51.2 45.83  52.91 64.90 50.44 56.34
"""
# Tree-GRPO collapsed on both Qwen3 models, so there are 19 rows of 21.

BAMBOOGLE_TABLE_5 = Fraction("54.4")
"""Qwen3-4B AT²PO on Bamboogle in Table 5; Table 1 has 56.80 for the same run."""

CREDIT: Mapping[str, Fraction] = {
    name: Fraction(average)
    for name, average in {
        "V, child-weighted": "48.81",
        "V, leaf-mean": "48.52",
        "V, child-mean": "48.43",
        "none (entropy expansion alone)": "48.33",
        "G, child-weighted": "48.19",
        "G, leaf-mean": "46.98",
        "L, child-weighted": "45.80",
        "L, leaf-mean": "45.61",
        "L+G, leaf-mean": "44.18",
    }.items()
}
"""Multi-hop average of Qwen3-4B by credit assignment; their cells are not at hand."""


@dataclass(frozen=True, slots=True)
class Average:
    """An average of the paper, and what its cells make it.

    Attributes:
        model: The backbone.
        method: The method.
        cells: Percent by set.
        reported: The average as printed.
    """

    model: str
    method: str
    cells: Mapping[str, Fraction]
    reported: Fraction

    @property
    def micro(self) -> Fraction:
        """The mean over all questions."""
        return sum((SIZES[name] * cell for name, cell in self.cells.items()), Fraction()) / sum(
            SIZES[name] for name in self.cells
        )

    @property
    def macro(self) -> Fraction:
        """The mean over the sets."""
        return sum(self.cells.values(), Fraction()) / len(self.cells)

    @property
    def questions(self) -> int:
        """Questions of all its sets."""
        return sum(SIZES[name] for name in self.cells)

    def reproduces(self) -> bool:
        """Return whether rounding alone can explain how far the average is from its cells.

        Every cell may be off by 0.005, so their weighted mean may be, too, and the printed average
        by another 0.005.
        """
        return abs(self.reported - self.micro) <= 2 * ROUNDING

    def standard_error(self) -> float:
        """Return the binomial standard error of the average, in points."""
        variance = sum(
            (SIZES[name] / self.questions) ** 2 * standard_error(cell, SIZES[name]) ** 2
            for name, cell in self.cells.items()
        )
        return math.sqrt(variance)


def standard_error(percent: Fraction, questions: int) -> float:
    """Return the binomial standard error of a cell, in points.

    Args:
        percent: The cell, in [0, 100].
        questions: Its number of questions.
    """
    return math.sqrt(percent * (100 - percent) / questions)


def averages() -> list[Average]:
    """Return Table 1: 19 rows with two averages each, those over the multi-hop sets first."""
    rows = [line.split() for line in _T1.strip().splitlines()]
    return [
        Average(model, method, dict(zip(sets, map(Fraction, figures), strict=True)), average)
        for sets, start in ((MULTI_HOP, 0), (SINGLE_HOP, len(MULTI_HOP) + 1))
        for model, method, *numbers in rows
        for figures in [numbers[start : start + len(sets)]]
        for average in [Fraction(numbers[start + len(sets)])]
    ]
