"""Settings of a low-rank adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from at2po_agents.errors import ConfigError
from at2po_agents.settings import Range, check_ranges

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """A low-rank adapter that is trained in place of all weights.

    Source: LoRA (arXiv 2106.09685). The adapter has no dropout: ratios of probabilities have to be
    those of one policy.
    """

    rank: int = 0
    """Rank of the adapter; 0 trains all weights instead."""
    alpha: float = 32.0
    """The adapter's output counts alpha / rank times."""
    targets: str = ALL_LINEAR
    """Layers that get one: all linear ones of attention and MLP, or a pattern of their names."""

    def __post_init__(self) -> None:
        """Check ranges and the pattern now rather than when the model is loaded."""
        ranges = {"rank": Range(0, 2**16), "alpha": Range(0, 1e6, above=True)}
        check_ranges(self, ranges, prefix="lora.")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ConfigError(
                f"lora.targets: expected {ALL_LINEAR} or a regular expression of layers' names, "
                f"found {self.targets!r}: {error}"
            ) from error
