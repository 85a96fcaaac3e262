"""ARPO: agentic reinforced policy optimization (Dong et al., arXiv 2507.19849)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from at2po_agents.algorithms.base import ClippedLoss
from at2po_agents.objective import advantages
from at2po_agents.rollout.expansion import ARPOBranching, Entropy, Expansion
from at2po_agents.rollout.expansion.branching import Variant
from at2po_agents.tree import RolloutTree

Credit = Literal["soft", "hard"]


@dataclass(frozen=True, kw_only=True)
class ARPO(ClippedLoss):
    """Chains that split after uncertain tool results, GRPO's advantages and loss.

    Source: ARPO (arXiv 2507.19849); numbers of the scripts of github.com/RUC-NLPIR/ARPO at a95cd08
    (16 rows, 8 at first, beam 2, threshold 0.5, weight 0.2, no KL term).
    """

    chains: int = 16
    """Chains per question in the end."""
    initial_chains: int = 8
    """Chains that start at once."""
    beam: int = 2
    """Chains that a split makes of one."""
    weight: float = 0.2
    """Weight of the rise in entropy."""
    variant: Variant = "designed"
    """Branching as the paper describes it or as the released code runs."""
    entropy: Entropy = "surprisal"
    """Estimate of a token's entropy."""
    credit: Credit = "soft"
    """Advantage of a shared turn: of each row in that row (soft), or the mean of its rows'."""
    dual_clip: float = 3.0

    name: ClassVar[str] = "arpo"

    def expansion(self) -> Expansion:
        """Return branching that asks how far entropy rose above that of the first turn."""
        return ARPOBranching(
            chains=self.chains,
            initial_chains=self.initial_chains,
            beam=self.beam,
            weight=self.weight,
            variant=self.variant,
            entropy=self.entropy,
        )

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write A_i = (R_i - mean) / std of the group on the rows, or its means on turns."""
        advantages.assign_row_advantages(tree)
        if self.credit == "hard":
            for leaf in tree.leaves():
                leaf.row_advantage = None
