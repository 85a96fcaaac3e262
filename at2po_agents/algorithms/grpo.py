"""GRPO: group relative policy optimization (Shao et al., arXiv 2402.03300), the common baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from at2po_agents.algorithms.base import ClippedLoss
from at2po_agents.objective import advantages
from at2po_agents.rollout.expansion import Chains, Expansion
from at2po_agents.tree import RolloutTree


@dataclass(frozen=True, kw_only=True)
class GRPO(ClippedLoss):
    """Independent chains, one advantage per row, token-level importance ratios.

    Source: AT2PO (arXiv 2601.04767), Eq. 4 to 6, and the script of its GRPO runs,
    AEPO/scripts/GRPO_qwen3_4B.sh of github.com/zzfoutofspace/ATPO at 98e60f6: clip 0.2 on both
    sides, dual clip 3, KL 0.001 with k3, token-mean (Eq. 6: mean over rows of token means).
    """

    chains: int = 16
    """Chains per question, the group."""
    dual_clip: float = 3.0
    kl_coef: float = 1e-3

    name: ClassVar[str] = "grpo"

    def expansion(self) -> Expansion:
        """Return independent chains."""
        return Chains(self.chains)

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write A_i = (R_i - mean) / std of the group on the rows."""
        advantages.assign_row_advantages(tree)
