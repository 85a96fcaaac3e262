"""Settings of a low-rank adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from at2po_agents.errors import ConfigError
from at2po_agents.settings import Range, Settings

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class LoraOptions(Settings):
    """A low-rank adapter that is trained in place of all weights.

    Source: LoRA (arXiv 2106.09685). The adapter has no dropout: ratios of probabilities have to be
    those of one policy.
    """

    group = "lora."
    rank: Annotated[int, Range(0, 2**16)] = 0
    """Rank of the adapter; 0 trains all weights instead."""
    alpha: Annotated[float, Range(0, 1e6, above=True)] = 32.0
    """The adapter's output counts alpha / rank times."""
    targets: str = ALL_LINEAR
    """Layers that get one: all linear ones of attention and MLP, or a pattern of their names."""

    def __post_init__(self) -> None:
        """Check the pattern, too, now rather than when the model is loaded."""
        super().__post_init__()
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ConfigError(
                f"lora.targets: expected {ALL_LINEAR} or a regular expression of layers' names, "
                f"found {self.targets!r}: {error}"
            ) from error
