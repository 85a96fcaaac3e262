"""Settings of the warm start, apart from it: a command line can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from at2po_agents.errors import ConfigError
from at2po_agents.settings import Count, Fraction, Range, Seed, Settings


@dataclass(frozen=True)
class WarmStart(Settings):
    """Settings of the warm start.

    Attributes:
        seed: Seed of worlds, errors, weights and batches.
        world: Preset of the MiniWikis played, all of them train worlds.
        worlds: Number of worlds.
        episodes: Demonstrations per world.
        error_rate: Chance that a demonstrated turn goes wrong.
        haste: Chance that a demonstration stops early in a chain of facts; above one half, the
            model learns to prefer it, which leaves something for reinforcement to mend.
        vocabulary: Size of the tokenizer.
        layers: Number of transformer layers.
        width: Width of the model, a multiple of 32.
        learning_rate: Peak learning rate of AdamW.
        batch_episodes: Demonstrations per step.
        context_weight: Weight of the loss over what the agent reads, beside what it writes.
        steps: Number of steps.
        out: Folder that the model and its tokenizer are written to.
    """

    seed: Seed = 0
    world: str = "demo"
    worlds: Count = 100
    episodes: Count = 500
    error_rate: Fraction = 0.15
    haste: Fraction = 0.6
    vocabulary: Annotated[int, Range(300, 2**24)] = 2048
    layers: Count = 4
    width: Count = 128
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 2e-3
    batch_episodes: Count = 16
    context_weight: Annotated[float, Range(0, 1e3)] = 0.5
    steps: Count = 7000
    out: Path = Path("runs/mini")

    def __post_init__(self) -> None:
        """Check the width, too, now rather than after the demonstrations."""
        super().__post_init__()
        if self.width % 32:
            raise ConfigError(f"width: expected a multiple of 32, found {self.width}")
