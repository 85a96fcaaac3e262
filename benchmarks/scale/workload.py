"""The trees that a simulated step grows: lengths and times only, drawn or read off real trees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator, default_rng

from at2po_agents.learner.partition import Length, lengths
from at2po_agents.rollout.expansion import Expansion
from at2po_agents.tree import Node, RolloutTree
from benchmarks.speed.step_cost import PaperStep, Work, add


@dataclass(eq=False, slots=True)
class Turn:
    """A turn to be sampled.

    Attributes:
        tree: The tree it belongs to.
        parent: The turn before; None behind the prompt.
        path: Places in `tree.turns` of the turns up to and including this one.
        before: Tokens of its context.
        sampled: Tokens that it samples, at least 1.
        inserted: Tokens of the tool result behind it; 0 where its chain ends.
        tool: Seconds until that result is there.
        follows: The next turn of its chain; None where it ends. Forks are not among these.
        fresh: Tokens that the first turn behind it has to prefill where keys and values are kept:
            the last one sampled, which was not through the model yet, and the inserted ones.
    """

    tree: Plan
    parent: Turn | None
    path: tuple[int, ...]
    before: int
    sampled: int
    inserted: int = 0
    tool: float = 0.0
    follows: Turn | None = None
    fresh: int = 1


@dataclass(eq=False, slots=True)
class Plan:
    """A tree to be grown.

    Attributes:
        prompt: Tokens of the prompt.
        waves: First turns of the initial chains, then those of each expansion.
        turns: All turns, parents first.
        learned: Whether an update learns from it: not where all its leaves earned the same.
        fresh: Tokens of the prompt that the first turn has to prefill; -1 for all.
    """

    prompt: int
    waves: list[list[Turn]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    learned: bool = True
    fresh: int = -1

    def __post_init__(self) -> None:
        """Count the prompt."""
        if self.fresh < 0:
            self.fresh = self.prompt

    def add(self, parent: Turn | None, sampled: int) -> Turn:
        """Append a turn behind another one (None: behind the prompt)."""
        before = parent.before + parent.sampled + parent.inserted if parent else self.prompt
        path = (*(parent.path if parent else ()), len(self.turns))
        turn = Turn(self, parent, path, before, sampled)
        self.turns.append(turn)
        return turn

    @property
    def leaves(self) -> list[Turn]:
        """The turns that end a chain, depth first."""
        ends = (turn for turn in self.turns if turn.follows is None)
        return sorted(ends, key=lambda leaf: leaf.path)

    def packed(self) -> Work:
        """Return the work of one forward pass over every unique token."""
        return add([_stretch(0, self.prompt, 0), *map(_own, self.turns)])

    def lengths(self) -> list[Length]:
        """Return the tokens of the rows."""
        rows = [(None, *(self.turns[place] for place in leaf.path)) for leaf in self.leaves]
        return lengths(rows, lambda turn: turn.sampled + turn.inserted if turn else self.prompt)

    def part(self, start: int, stop: int) -> Work:
        """Return the work of one forward pass over the unique tokens of consecutive rows.

        Args:
            start: Number of the first row.
            stop: Number of the row after the last.
        """
        held = {place for leaf in self.leaves[start:stop] for place in leaf.path}
        return add([_stretch(0, self.prompt, 0), *(_own(self.turns[place]) for place in held)])

    def rows(self) -> list[Work]:
        """Return the work of one forward pass over each row alone."""
        return [
            _stretch(
                0,
                leaf.before + leaf.sampled,
                sum(self.turns[place].sampled for place in leaf.path),
            )
            for leaf in self.leaves
        ]


@dataclass(frozen=True)
class Workload:
    """What a step consists of.

    Attributes:
        step: Its sizes, of which means are kept to.
        most_turns: Most turns of a chain. Source: at most 6 tool calls in the paper's runs.
        turn_spread: Standard deviation of the logarithm of a turn's tokens. An assumption.
        tool_seconds: Mean seconds of a tool call. An assumption, as of a retriever that is shared.
        tool_spread: Standard deviation of the logarithm of its seconds. An assumption.
    """

    step: PaperStep = PaperStep()
    most_turns: int = 7
    turn_spread: float = 0.5
    tool_seconds: float = 0.5
    tool_spread: float = 1.0

    def draw(self, questions: int, rng: Generator) -> list[Plan]:
        """Draw trees; forks start at random turns, as in the paper's random ablation.

        The number of a chain's turns is 1 + binomial; a fork's is drawn on the condition that the
        chain came as far as there. Tokens and seconds are lognormal.

        Args:
            questions: How many.
            rng: Draws everything.
        """
        return [self._tree(rng) for _ in range(questions)]

    def _tree(self, rng: Generator) -> Plan:
        tree = Plan(self.step.prompt)
        for iteration in range(self.step.iterations + 1):
            parents = self._forks(tree, rng) if iteration else [None] * self.step.chains
            tree.waves.append([self._chain(tree, parent, rng) for parent in parents])
        return tree

    def _forks(self, tree: Plan, rng: Generator) -> list[Turn | None]:
        """Draw turns that led on to another one, or the prompt; return what is before them."""
        candidates = [None, *(turn for turn in tree.turns if turn.follows)]
        few = len(candidates) < self.step.beam
        drawn = (candidates[i] for i in rng.choice(len(candidates), self.step.beam, replace=few))
        return [turn.parent if turn else None for turn in drawn]

    def _chain(self, tree: Plan, parent: Turn | None, rng: Generator) -> Turn:
        """Append a chain behind a turn; return its first turn."""
        done = len(parent.path) if parent else 0
        trials = self.most_turns - 1
        turns = 0
        while turns <= done:
            turns = 1 + int(rng.binomial(trials, (self.step.mean_turns - 1) / trials))
        chain: list[Turn] = []
        for depth in range(done, turns):
            sampled = max(1, round(self._lognormal(self.step.turn, self.turn_spread, rng)))
            turn = tree.add(chain[-1] if chain else parent, sampled)
            if chain:
                chain[-1].follows = turn
            if depth < turns - 1:
                turn.inserted, turn.fresh = self.step.result, self.step.result + 1
                turn.tool = self._lognormal(self.tool_seconds, self.tool_spread, rng)
            chain.append(turn)
        return chain[0]

    @staticmethod
    def _lognormal(mean: float, spread: float, rng: Generator) -> float:
        return mean * float(np.exp(spread * rng.standard_normal() - spread**2 / 2))


def planned(trees: Sequence[RolloutTree], expansion: Expansion) -> list[Plan]:
    """Read lengths off trees that were grown together, as plans to grow them again.

    Tools take no time in these. Contexts that begin alike, of different trees too, share keys and
    values as far as they do.

    Args:
        trees: Complete trees with credit.
        expansion: What they grew by; it is asked again, so it must draw nothing.
    """
    seen = _Seen()
    return [_planned(tree, expansion, seen) for tree in trees]


class _Seen:
    """Places of tokens, by what stands before them, and those that have keys and values."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, int], int] = {}
        self.known: set[int] = set()

    def walk(self, place: int, ids: Sequence[int]) -> tuple[int, int]:
        """Go on behind a place; return where it ends, and how many tokens are new there."""
        new = 0
        for token in ids:
            place = self.places.setdefault((place, token), len(self.places) + 1)
            new += place not in self.known
            self.known.add(place)
        return place, new


def _planned(tree: RolloutTree, expansion: Expansion, seen: _Seen) -> Plan:
    end, fresh = seen.walk(0, tree.root.inserted)
    credited = any(node.advantage or node.row_advantage for node in tree.nodes())
    plan = Plan(len(tree.root.inserted), learned=credited, fresh=fresh)
    ends = {tree.root: end}
    made: dict[Node, Turn] = {}
    for wave in _waves(tree, expansion):
        for first in wave:
            for node in _chain(first):
                above = node.parent or tree.root
                turn = made[node] = plan.add(made.get(above), len(node.sampled))
                turn.inserted = len(node.inserted)
                end, _ = seen.walk(ends[above], node.sampled[:-1])
                # The last token goes through the model only where another turn follows.
                behind = node.sampled[-1:] + node.inserted if node.children else []
                ends[node], turn.fresh = seen.walk(end, behind)
                if node is not first:
                    made[above].follows = turn
        plan.waves.append([made[first] for first in wave])
    return plan


def _chain(first: Node) -> Iterator[Node]:
    """Go from the first turn of a chain to its last."""
    yield first
    while first.children:
        first = first.children[0]
        yield first


def _waves(tree: RolloutTree, expansion: Expansion) -> list[list[Node]]:
    """Ask an expansion again where a tree forked; return the first turns of its chains."""
    waves = [tree.root.children[: expansion.initial()]]
    young = RolloutTree(None, tree.root.inserted)  # the tree as it was
    twins, nodes = {tree.root: young.root}, {young.root: tree.root}
    while waves[-1]:
        for node in (node for first in waves[-1] for node in _chain(first)):
            kept = {name: getattr(node, name) for name in _KEPT}
            twin = twins[node] = young.add(twins[node.parent or tree.root], **kept)
            nodes[twin] = node
        forks: list[Node] = []
        begun = Counter[Node]()
        for parent in expansion.forks(young, len(waves) - 1, default_rng(0)):
            place = len(parent.children) + begun[parent]
            begun[parent] += 1
            forks.append(nodes[parent].children[place])
        waves.append(forks)
    return waves[:-1]


_KEPT = ("sampled", "logprobs", "entropies", "info")
"""What an expansion may look at."""


def total(plans: Sequence[Plan]) -> Work:
    """Return the work of one forward pass over the unique tokens of trees."""
    return add([plan.packed() for plan in plans])


def _own(turn: Turn) -> Work:
    """A turn's own tokens, those that it samples and those that follow."""
    return _stretch(turn.before, turn.before + turn.sampled + turn.inserted, turn.sampled)


def _stretch(start: int, stop: int, logits: int) -> Work:
    """Tokens start + 1 to stop of a row, each of which attends to all up to itself."""
    return Work(stop - start, (stop * (stop + 1) - start * (start + 1)) // 2, logits)
