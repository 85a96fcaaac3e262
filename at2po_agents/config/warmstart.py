"""Settings of the warm start, apart from it: a command line can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from at2po_agents.errors import ConfigError
from at2po_agents.settings import COUNT, SEED, Range, check_ranges

_RANGES = {
    "seed": SEED,
    "worlds episodes layers width batch_episodes steps": COUNT,
    "vocabulary": Range(300, 2**24),
    "error_rate haste": Range(0, 1),
    "context_weight": Range(0, 1e3),
    "learning_rate": Range(0, 1, above=True),
}


@dataclass(frozen=True)
class WarmStart:
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

    seed: int = 0
    world: str = "demo"
    worlds: int = 100
    episodes: int = 500
    error_rate: float = 0.15
    haste: float = 0.6
    vocabulary: int = 2048
    layers: int = 4
    width: int = 128
    learning_rate: float = 2e-3
    batch_episodes: int = 16
    context_weight: float = 0.5
    steps: int = 7000
    out: Path = Path("runs/mini")

    def __post_init__(self) -> None:
        """Check ranges now rather than after the demonstrations."""
        check_ranges(self, _RANGES)
        if self.width % 32:
            raise ConfigError(f"width: expected a multiple of 32, found {self.width}")
