"""Dynamic sampling: questions that teach nothing are replaced by others, up to a limit."""

from __future__ import annotations

from collections.abc import Callable

from at2po_agents.algorithms.base import Algorithm
from at2po_agents.tree import RolloutTree


def fill(
    algorithm: Algorithm, wanted: int, grow: Callable[[int, int], list[RolloutTree]]
) -> tuple[list[RolloutTree], list[RolloutTree]]:
    """Grow trees until a batch is full of those worth learning from.

    Args:
        algorithm: Says which trees are informative, and how many questions to roll out for them.
        wanted: Size of the batch, at least 1.
        grow: Rolls out as many new questions as the first number says; the second counts the calls.

    Returns:
        All trees that were grown, and the batch. Where too few are informative, the first others
        fill it up; informative ones beyond it are not learned from.

    Source: DAPO paper; limit and filling up as in the code that the AT2PO paper's runs used.
    """
    grown: list[RolloutTree] = []
    kept: list[RolloutTree] = []
    for generation in range(algorithm.generations):
        fresh = grow(wanted * algorithm.oversample, generation)
        grown += fresh
        kept += [tree for tree in fresh if algorithm.informative(tree)]
        if len(kept) >= wanted:
            break
    chosen = {id(tree) for tree in kept}
    rest = [tree for tree in grown if id(tree) not in chosen]
    return grown, [*kept, *rest][:wanted]
