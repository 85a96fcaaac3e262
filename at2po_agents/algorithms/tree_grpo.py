"""Tree-GRPO: tree search for agent reinforcement learning (Ji et al., arXiv 2509.21240)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from at2po_agents.algorithms.base import ClippedLoss
from at2po_agents.objective import advantages
from at2po_agents.rollout.expansion import Expansion, Forest, forest
from at2po_agents.tree import RolloutTree


@dataclass(frozen=True, kw_only=True)
class TreeGRPO(ClippedLoss):
    """Several random trees per question, advantages within a tree and across them.

    The shape is matched to the cost of 16 chains (8 + 8*2/2, 24 rows); the released scripts use 2
    trees, 2 forks and 1 iteration. Engine, prompt and reward are those of the other methods, and
    tokens are never decoded and encoded again. The released entropy bonus of 0.001 is left out.

    Source: Tree-GRPO (arXiv 2509.21240) and github.com/AMAP-ML/Tree-GRPO at 90b1709: clip 0.2, dual
    clip 3, KL 0.001 with k3, token-mean.
    """

    trees: int = 8
    """Trees M per question, each of which starts as one chain."""
    iterations: int = 1
    """Expansions L per tree."""
    beam: int = 2
    """Forks N per tree and expansion."""
    inter: bool = True
    """Add the advantage across trees to that within a tree."""
    dual_clip: float = 3.0
    kl_coef: float = 1e-3

    name: ClassVar[str] = "tree_grpo"

    def expansion(self) -> Expansion:
        """Return trees that are forked after randomly drawn turns."""
        return Forest(self.trees, self.iterations, self.beam)

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write A = A_inter + A_intra on the rows."""
        advantages.assign_forest_advantages(tree, forest(tree), self.inter)
