"""AEPO: agentic entropy-balanced policy optimization (Dong et al., arXiv 2510.14545)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from at2po_agents.algorithms.base import ClippedLoss
from at2po_agents.objective import advantages
from at2po_agents.rollout.expansion import AEPOBranching, Entropy, Expansion
from at2po_agents.rollout.expansion.base import finite
from at2po_agents.rollout.expansion.branching import Variant
from at2po_agents.tree import RolloutTree

if TYPE_CHECKING:
    from torch import Tensor

    from at2po_agents.objective.losses import LossOutput
    from at2po_agents.objective.rows import Rows


@dataclass(frozen=True, kw_only=True)
class AEPO(ClippedLoss):
    """Damped branching, a soft upper clip, advantages that grow with entropy.

    Source: AEPO (arXiv 2510.14545); AEPO/scripts/AEPO_qwen3_4B.sh of
    github.com/zzfoutofspace/ATPO at 98e60f6. "designed" measures how many chains to start with and
    weighs advantages by entropy; "released" does neither, as the AT2PO paper's baseline ran (there
    the entropy was never computed): 8 of 16 chains, beam 2, weight 0.2, no KL term.
    """

    chains: int = 16
    """Chains per question in the end."""
    initial_chains: int = 8
    """Chains that start at once where they are not measured."""
    beam: int = 2
    """Chains that a split makes of one."""
    weight: float = 0.2
    """Weight of the rise in entropy when branching."""
    variant: Variant = "designed"
    """The method as the paper describes it or as the released code runs."""
    entropy: Entropy = "surprisal"
    """Estimate of a token's entropy; "full" for advantages over whole distributions too."""
    entropy_weight: float = 0.2
    """Weight of entropy in the advantages, as designed."""
    soft_upper_clip: bool = True
    dual_clip: float = 3.0

    name: ClassVar[str] = "aepo"

    def __post_init__(self) -> None:
        """Check all settings now rather than after the first rollout."""
        super().__post_init__()
        finite("entropy_weight", self.entropy_weight)

    def expansion(self) -> Expansion:
        """Return branching that a row of branches in a row damps."""
        return AEPOBranching(
            chains=self.chains,
            initial_chains=self.initial_chains,
            beam=self.beam,
            weight=self.weight,
            variant=self.variant,
            entropy=self.entropy,
            monitor=self.variant == "designed",
        )

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write A_i = (R_i - mean) / std of the group on the rows."""
        advantages.assign_row_advantages(tree)

    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        """Return the clipped loss with advantages A (1 + weight z) as designed."""
        if self.variant == "designed" and self.entropy_weight:
            from at2po_agents.objective.losses import entropy_weighted

            rows = entropy_weighted(rows, self.entropy_weight)
        return super().loss(rows, logp, old)
