"""AT2PO's expansion: complete chains fork by entropy, or at random, which is its baseline."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from numpy.random import Generator

from at2po_agents.rollout.expansion.base import at_least
from at2po_agents.rollout.expansion.entropy_measures import Entropy, turn_entropy
from at2po_agents.tree import Node, RolloutTree

Rule = Literal["released", "paper"]
"""Details of AT2PO's expansion: of the released code, or of the paper's Algorithm 1."""


@dataclass(frozen=True)
class _TreeSearch:
    """Chains are played to their ends; then, `iterations` times, `beam` turns are sampled again."""

    chains: int = 10
    iterations: int = 2
    beam: int = 6

    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields."""
        at_least("chains", self.chains, 1)
        at_least("iterations", self.iterations, 0)
        at_least("beam", self.beam, 1)

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        return self.chains

    def forks(self, tree: RolloutTree, iteration: int, rng: Generator) -> list[Node]:
        """Return the parents of the chosen candidates; the root stands for itself."""
        # The root and all turns that led on to another one, breadth first.
        candidates = [node for node in tree.nodes() if not node.is_leaf]
        if iteration >= self.iterations or not candidates:
            return []
        return [_origin(node) for node in self.chosen(candidates, rng)]

    def chosen(self, candidates: Sequence[Node], rng: Generator) -> list[Node]:
        """Return `beam` candidates, which may repeat."""
        raise NotImplementedError


@dataclass(frozen=True)
class EntropyGuided(_TreeSearch):
    """AT2PO's expansion: sample again the turns that surprised the policy most.

    A tree ends with `chains + iterations * beam` leaves. Only turns that led on to another turn
    are sampled again, so never a final one. Ties keep breadth-first order, and where candidates
    are fewer than `beam` the ranking is gone through again from the top. Turns that sampled the
    same tokens after the same ones tie, too: they have one entropy, and if the rounding of their
    log-probabilities ranked them, a tree would depend on which turns were sampled together.

    Attributes:
        chains: Initial chains M, at least 1.
        iterations: Expansions L per tree, at least 0.
        beam: Forks K per expansion, at least 1.
        penalty: Score deducted per sibling, in nats, at least 0.
        rule: Under "released" the root competes with an entropy of 0 (a fork there is a new chain)
            and the first child of a state is free of penalty. Under "paper" every child counts and
            the root stands in only where there is no other candidate.
        entropy: The estimate of H.

    Source: AT2PO (arXiv 2601.04767), Algorithm 1; "released" as `sample_expansion_nodes` in
    vllm_rollout_with_tools_tree_offline.py of github.com/zzfoutofspace/ATPO at 98e60f6. Cycling is
    in the code only.
    """

    penalty: float = 0.05
    rule: Rule = "released"
    entropy: Entropy = "surprisal"

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        at_least("penalty", self.penalty, 0)

    def chosen(self, candidates: Sequence[Node], rng: Generator) -> list[Node]:
        """Return the `beam` best candidates."""
        twin = _first_twins(candidates)
        if self.rule == "paper":
            candidates = candidates[1:] or candidates
        # sorted() is stable, so ties keep breadth-first order: shallower and earlier turns first.
        ranked = sorted(candidates, key=lambda node: self.score(node, twin[node]), reverse=True)
        return [ranked[i % len(ranked)] for i in range(self.beam)]

    def score(self, node: Node, twin: Node | None = None) -> float:
        """Return entropy minus the penalty for the turns that already explore the same state.

        Args:
            node: A turn, or the root.
            twin: The turn whose estimate of the entropy counts; by default the node itself.
        """
        children = len(_origin(node).children)
        counted = children if self.rule == "paper" else max(0, children - 1)
        return turn_entropy(twin or node, self.entropy) - self.penalty * counted


@dataclass(frozen=True)
class RandomExpansion(_TreeSearch):
    """Tree search without guidance: the turns to sample again are drawn uniformly.

    Attributes:
        chains: Initial chains M, at least 1.
        iterations: Expansions L per tree, at least 0.
        beam: Forks K per expansion, at least 1; drawn without replacement while there are enough
            candidates, the root among them.

    Source: the baseline of Table 2 of AT2PO (arXiv 2601.04767); mode "random" in the file that
    `EntropyGuided` names.
    """

    def chosen(self, candidates: Sequence[Node], rng: Generator) -> list[Node]:
        """Return `beam` random candidates."""
        drawn = rng.choice(len(candidates), self.beam, replace=len(candidates) < self.beam)
        return [candidates[place] for place in drawn]


def _first_twins(nodes: Sequence[Node]) -> dict[Node, Node]:
    """Map nodes to the first of those that sampled the same after the same; parents come first."""
    twin: dict[Node, Node] = {}
    first: dict[Hashable, Node] = {}
    for node in nodes:
        parent = node.parent
        before = (twin[parent], *parent.inserted) if parent is not None else ()
        twin[node] = first.setdefault((before, tuple(node.sampled)), node)
    return twin


def _origin(node: Node) -> Node:
    """Return the node under which a fork of `node` starts."""
    return node if node.parent is None else node.parent
