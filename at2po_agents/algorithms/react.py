"""ReAct (Yao et al., arXiv 2210.03629): the same loop of thought and search, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from at2po_agents.algorithms.base import Algorithm
from at2po_agents.errors import ConfigError
from at2po_agents.rollout.expansion import Chains, Expansion
from at2po_agents.tree import RolloutTree

if TYPE_CHECKING:
    from torch import Tensor

    from at2po_agents.objective.losses import LossOutput
    from at2po_agents.objective.rows import Rows


@dataclass(frozen=True, kw_only=True)
class ReAct(Algorithm):
    """One chain and nothing to learn: a run of 0 steps evaluates the starting policy greedily."""

    name: ClassVar[str] = "react"
    learns: ClassVar[bool] = False

    def expansion(self) -> Expansion:
        """Return a single chain."""
        return Chains(1)

    def assign_credit(self, tree: RolloutTree) -> None:
        """Leave every turn without weight."""
        for node in tree.nodes()[1:]:
            node.advantage = 0.0

    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        """Refuse to train."""
        raise ConfigError("react has no loss, found an update; set steps = 0, or choose another")
