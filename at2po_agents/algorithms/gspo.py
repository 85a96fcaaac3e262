"""GSPO: group sequence policy optimization (Zheng et al., arXiv 2507.18071)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from at2po_agents.algorithms.base import ClippedLoss
from at2po_agents.objective import advantages
from at2po_agents.objective.loss_options import Aggregation, Ratio
from at2po_agents.rollout.expansion import Chains, Expansion
from at2po_agents.tree import RolloutTree


@dataclass(frozen=True, kw_only=True)
class GSPO(ClippedLoss):
    """Independent chains, one advantage and one importance ratio per row.

    The ratio is the geometric mean over the row's sampled tokens; like ATPO's, its gradient is that
    of each token's own log-probability. On rows of a single turn the two losses are the same.

    Source: GSPO (arXiv 2507.18071), section 4.3; clip 3e-4 and 4e-4 and no dual clip as in the runs
    of AT2PO (arXiv 2601.04767), which state no KL coefficient: 0.
    """

    chains: int = 16
    """Chains per question, the group."""
    ratio: Ratio = "sequence"
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    aggregation: Aggregation = "seq-mean-token-mean"

    name: ClassVar[str] = "gspo"

    def expansion(self) -> Expansion:
        """Return independent chains."""
        return Chains(self.chains)

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write A_i = (R_i - mean) / std of the group on the rows."""
        advantages.assign_row_advantages(tree)
