"""What an algorithm is: how to grow a tree, how to credit it, what to minimise."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from at2po_agents.expansion import Expansion
from at2po_agents.losses import LossOutput
from at2po_agents.packing import Rows
from at2po_agents.tree import RolloutTree


class Algorithm(Protocol):
    """One reinforcement-learning algorithm, stateless."""

    @property
    def name(self) -> str:
        """Name under which `at2po_agents.algorithms.get` finds it."""
        ...

    def expansion(self) -> Expansion:
        """Return the strategy that grows the trees."""
        ...

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write `advantage` on every turn, or `row_advantage` on every leaf.

        Args:
            tree: A complete tree; every leaf has a reward.
        """
        ...

    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        """Return the rows' share of the mini-batch loss.

        A tree whose advantages are all 0 must contribute no loss and no gradient: the learner
        leaves it out and keeps its rows in `rows.total_rows`.

        Args:
            rows: The rows.
            logp: [R, T] log-probabilities under the policy being trained, differentiable.
            old: [R, T] log-probabilities under the policy before the first mini-batch.
        """
        ...
