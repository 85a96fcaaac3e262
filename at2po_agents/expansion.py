"""Which turns are sampled again: the strategies that grow a rollout tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from at2po_agents.errors import ConfigError
from at2po_agents.tree import Node, RolloutTree


class Expansion(Protocol):
    """Answers one question: which node do I fork next, and how often?"""

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        ...

    def forks(self, tree: RolloutTree, iteration: int) -> list[Node]:
        """Choose where new chains start, once all chains of the tree are complete.

        Args:
            tree: A tree whose leaves are all final.
            iteration: Number of expansions made so far, from 0.

        Returns:
            The PARENT of each new chain, one entry per chain; empty when the tree is done.
        """
        ...


@dataclass(frozen=True)
class Chains:
    """Independent chains from the prompt, no forks.

    Attributes:
        chains: Number of chains, at least 1.
    """

    chains: int

    def __post_init__(self) -> None:
        """Check the fields."""
        _at_least("chains", self.chains, 1)

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        return self.chains

    def forks(self, tree: RolloutTree, iteration: int) -> list[Node]:
        """Return no forks."""
        return []


@dataclass(frozen=True)
class EntropyGuided:
    """AT2PO's expansion: sample again the turns that surprised the policy most.

    A tree ends with `chains + iterations * beam` leaves.

    Attributes:
        chains: Initial chains M, at least 1.
        iterations: Expansions L per tree, at least 0.
        beam: Forks K per expansion, at least 1.
        penalty: Score deducted for every sibling beyond the first, in nats, at least 0.

    Source: AT2PO paper Algorithm 1; candidates, root and penalty as in the released code,
    where the root is a candidate and the first child is free of penalty.
    """

    chains: int = 10
    iterations: int = 2
    beam: int = 6
    penalty: float = 0.05

    def __post_init__(self) -> None:
        """Check the fields."""
        _at_least("chains", self.chains, 1)
        _at_least("iterations", self.iterations, 0)
        _at_least("beam", self.beam, 1)
        _at_least("penalty", self.penalty, 0)

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        return self.chains

    def forks(self, tree: RolloutTree, iteration: int) -> list[Node]:
        """Return the parents of the `beam` best candidates; the root stands for itself."""
        if iteration >= self.iterations:
            return []
        # A final turn is a leaf and never forked; the root competes with a surprisal of 0.
        candidates = [node for node in tree.nodes() if not node.is_leaf]
        if not candidates:
            return []
        # sorted() is stable, so ties keep breadth-first order: shallower and earlier turns first.
        ranked = sorted(candidates, key=self.score, reverse=True)
        return [_origin(ranked[i % len(ranked)]) for i in range(self.beam)]

    def score(self, node: Node) -> float:
        """Return surprisal minus the penalty for siblings that already explore the same state."""
        siblings = len(_origin(node).children) - 1
        return node.surprisal - self.penalty * max(0, siblings)


def _origin(node: Node) -> Node:
    """Return the node under which a fork of `node` starts."""
    return node if node.parent is None else node.parent


def _at_least(name: str, value: float, minimum: float) -> None:
    if not value >= minimum:
        raise ConfigError(f"{name} must be at least {minimum}, found {value}; raise it")
