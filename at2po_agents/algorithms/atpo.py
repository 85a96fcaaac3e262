"""AT2PO: agentic turn-based policy optimization via tree search (arXiv 2601.04767)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from at2po_agents import credit, losses
from at2po_agents.errors import ConfigError
from at2po_agents.expansion import EntropyGuided
from at2po_agents.losses import LossOutput
from at2po_agents.packing import Rows
from at2po_agents.tree import RolloutTree


@dataclass(frozen=True)
class ATPO:
    """Entropy-guided trees, turn-wise credit, turn-level importance ratios.

    Attributes:
        chains: Initial chains M per question.
        iterations: Expansions L per tree.
        beam: Forks K per expansion; a tree ends with M + L*K leaves.
        branch_penalty: Cost alpha of a sibling, in nats (only in the released code).
        leaf_norm: Normalisation of leaf rewards within a tree.
        value: How values flow from children to parents; Eq. 3 as printed is "child_linear", the
            released code uses "child_softmax".
        advantage: Advantage of a turn as a function of values.
        clip_low: Lower clip distance of the turn ratio, in [0, 1].
        clip_high: Upper clip distance of the turn ratio, at least 0.

    Source: AT2PO paper for M, L, K and the clip bounds, its released code for the rest.
    """

    chains: int = 10
    iterations: int = 2
    beam: int = 6
    branch_penalty: float = 0.05
    leaf_norm: credit.LeafNorm = "population"
    value: credit.Value = "child_softmax"
    advantage: credit.Advantage = "value"
    clip_low: float = 3e-3
    clip_high: float = 4e-3

    name: ClassVar[str] = "atpo"

    def __post_init__(self) -> None:
        """Check all settings now rather than after the first rollout."""
        self.expansion()
        credit.check(credit.LeafNorm, "leaf_norm", self.leaf_norm)
        credit.check(credit.Value, "value", self.value)
        credit.check(credit.Advantage, "advantage", self.advantage)
        if not (0 <= self.clip_low <= 1 and self.clip_high >= 0):
            raise ConfigError(
                "clip_low must lie in [0, 1] and clip_high be at least 0, found "
                f"{self.clip_low} and {self.clip_high}; the paper uses 3e-3 and 4e-3"
            )

    def expansion(self) -> EntropyGuided:
        """Return the tree search of Algorithm 1."""
        return EntropyGuided(self.chains, self.iterations, self.beam, self.branch_penalty)

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write values (Eq. 3) and advantages A(n) = f(V) on the turns."""
        credit.assign_values(tree, leaf_norm=self.leaf_norm, value=self.value)
        credit.assign_advantages(tree, self.advantage)

    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        """Return the clipped turn-level loss, averaged per row, then over rows."""
        ratio = losses.turn_ratio(rows, logp, old)
        terms = losses.clipped(ratio, rows.advantages, self.clip_low, self.clip_high)
        shares = losses.seq_mean_token_mean(rows, terms)
        bounds = {"low": self.clip_low, "high": self.clip_high}
        return losses.output(rows, shares, ratio=ratio, logp=logp, old=old, **bounds)
