"""AT2PO: agentic turn-based policy optimization via tree search (arXiv 2601.04767)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from at2po_agents.algorithms.base import ClippedLoss
from at2po_agents.objective import advantages
from at2po_agents.objective.loss_options import Aggregation, Ratio
from at2po_agents.rollout.expansion import Entropy, EntropyGuided, Expansion, RandomExpansion
from at2po_agents.rollout.expansion.entropy_guided import Rule
from at2po_agents.tree import RolloutTree

Search = Literal["entropy", "random"]
Advantage = Literal[advantages.Advantage, "rows"]


@dataclass(frozen=True, kw_only=True)
class ATPO(ClippedLoss):
    """Entropy-guided trees, turn-wise credit, turn-level importance ratios.

    Source: AT2PO (arXiv 2601.04767) for M, L, K and the clip bounds; the rest is that of
    ATPO/scripts/ATPO_qwen3_4B.sh of github.com/zzfoutofspace/ATPO at 98e60f6. The other choices are
    the paper's ablations (Tables 2 and 3).
    """

    chains: int = 10
    """Initial chains M per question."""
    iterations: int = 2
    """Expansions L per tree."""
    beam: int = 6
    """Forks K per expansion; a tree ends with M + L*K leaves."""
    branch_penalty: float = 0.05
    """Cost alpha of a sibling, in nats (only in the released code)."""
    search: Search = "entropy"
    """How turns to sample again are chosen: by their entropy (Algorithm 1) or at random."""
    rule: Rule = "released"
    """Candidates and penalty as in the released code or as in the paper's Algorithm 1."""
    entropy: Entropy = "surprisal"
    """Estimate of a turn's entropy in the search (Eq. 2: surprisal)."""
    leaf_norm: advantages.LeafNorm = "population"
    """Normalisation of leaf rewards within a tree."""
    value: advantages.Value = "child_softmax"
    """How values flow to parents; Eq. 3 as printed is child_linear, released is child_softmax."""
    advantage: Advantage = "value"
    """Advantage of a turn as a function of values; "rows" is GRPO's, without a tree."""
    ratio: Ratio = "turn"
    clip_low: float = 3e-3
    clip_high: float = 4e-3
    aggregation: Aggregation = "seq-mean-token-mean"

    name: ClassVar[str] = "atpo"

    def expansion(self) -> Expansion:
        """Return the tree search: Algorithm 1 with H of Eq. 2, or its random ablation."""
        size = (self.chains, self.iterations, self.beam)
        if self.search == "random":
            return RandomExpansion(*size)
        return EntropyGuided(*size, self.branch_penalty, self.rule, self.entropy)

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write values (Eq. 3) and advantages A(n) = f(V) on the turns."""
        if self.advantage == "rows":
            advantages.assign_row_advantages(tree)
        else:
            advantages.assign_values(tree, leaf_norm=self.leaf_norm, value=self.value)
            advantages.assign_advantages(tree, self.advantage)
