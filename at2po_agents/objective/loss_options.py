"""Names of what a loss can be made of, apart from its formulas: settings need no torch."""

from __future__ import annotations

from typing import Literal

Ratio = Literal["token", "turn", "sequence"]
Aggregation = Literal["token-mean", "seq-mean-token-mean"]
Shared = Literal["leaves", "once"]
