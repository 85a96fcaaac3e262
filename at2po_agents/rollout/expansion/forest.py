"""Tree-GRPO's rollout: several trees per prompt, grown at random, forked after a turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from at2po_agents.rollout.expansion.base import at_least
from at2po_agents.tree import Node, RolloutTree

_NOTE = "trees"  # in the root's info: the tree that each child of the root belongs to


@dataclass(frozen=True)
class Forest:
    """Trees that share their prompt, each of which starts as one chain.

    In every iteration each tree draws `beam` of its nodes, with replacement: the prompt or any turn
    that led on to another. A new chain starts AFTER the drawn turn and its tool result. A tree ends
    with `1 + iterations * beam` leaves.

    Attributes:
        trees: Trees M per prompt, at least 1.
        iterations: Expansions L per tree, at least 0.
        beam: Forks N per tree and expansion, at least 1.

    Source: Tree-GRPO (arXiv 2509.21240) and github.com/AMAP-ML/Tree-GRPO at 90b1709; all leaves are
    kept (its K = 1 + N * L).
    """

    trees: int = 8
    iterations: int = 1
    beam: int = 2

    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields."""
        at_least("trees", self.trees, 1)
        at_least("iterations", self.iterations, 0)
        at_least("beam", self.beam, 1)

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        return self.trees

    def forks(self, tree: RolloutTree, iteration: int, rng: Generator) -> list[Node]:
        """Return the drawn nodes and note which tree a new chain from the prompt belongs to."""
        if iteration >= self.iterations:
            return []
        parents = []
        owners = _owners(tree)
        for number, nodes in enumerate(forest(tree)):
            inner = [tree.root, *(node for node in nodes if not node.is_leaf)]
            drawn = [inner[place] for place in rng.integers(len(inner), size=self.beam)]
            owners += [number for node in drawn if node is tree.root]
            parents += drawn
        tree.root.info[_NOTE] = owners
        return parents


def forest(tree: RolloutTree) -> list[list[Node]]:
    """Return the turns of each tree of a forest, breadth first, without the shared prompt."""
    owners = _owners(tree)
    trees: list[list[Node]] = [[] for _ in range(max(owners, default=-1) + 1)]
    owner: dict[Node, int] = dict(zip(tree.root.children, owners, strict=True))
    for node in tree.nodes()[1:]:
        if node.parent is not tree.root:
            owner[node] = owner[node.parent]  # type: ignore[index]
        trees[owner[node]].append(node)
    return trees


def _owners(tree: RolloutTree) -> list[int]:
    return list(tree.root.info.get(_NOTE, range(len(tree.root.children))))
