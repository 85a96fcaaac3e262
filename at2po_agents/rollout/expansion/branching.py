"""ARPO's and AEPO's rollout: chains split after a tool result if the policy became uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from numpy.random import Generator

from at2po_agents.errors import ConfigError
from at2po_agents.rollout.expansion.base import at_least, finite
from at2po_agents.rollout.expansion.entropy_measures import Entropy, token_entropies
from at2po_agents.tree import Node, RolloutTree

Variant = Literal["designed", "released"]
"""Branching as the papers describe it, or as their released code runs."""

_JUDGED = "branching"  # in a turn's info: the number that decided whether it split
_STREAK = "streak"  # in the root's info: rounds in a row that started a new chain


@dataclass(frozen=True)
class ARPOBranching:
    """A tree in rounds: in each, every running chain takes one turn, and some of them split.

    `H` is the sum of the entropies of a turn's first tokens over ln V, `dH` its rise over that of
    the chain's first turn. "designed": a turn that follows a tool result is sampled `beam - 1`
    times more, from the state before it, where `probability + weight * dH > threshold`. "released":
    for each of `beam - 1` trials with a uniform u, a chain is copied with the tool result that
    FOLLOWS the measured turn where `u - weight * dH <= threshold`; the first turn of the copy is
    the one that it samples first itself. Chains that the branches leave over start at the prompt
    once none is running: all at once as designed, one by one as released.

    Attributes:
        chains: Chains per prompt in the end, at least `initial_chains`.
        initial_chains: Chains that start at once, at least 1.
        beam: Chains that a split makes of one, at least 1.
        probability: Base probability alpha of the designed rule.
        weight: Weight of dH.
        threshold: What decides, see above.
        window: Tokens of a turn that are measured, at least 1.
        vocabulary: V, at least 2; None stands for the number of entries in the vocabulary of the
            policy's tokenizer, which the collector puts here.
        variant: "designed" or "released".
        entropy: The estimate of a token's entropy.

    Source: ARPO (arXiv 2507.19849), and github.com/RUC-NLPIR/ARPO at a95cd08 with sums over 20
    tokens (of the top-10 candidates, which no engine here returns) over the logarithm of the
    tokenizer's vocabulary, added tokens included. The code never clears its first-turn entropies;
    here each chain has its own.
    """

    chains: int = 16
    initial_chains: int = 8
    beam: int = 2
    probability: float = 0.5
    weight: float = 0.2
    threshold: float = 0.5
    window: int = 20
    vocabulary: int | None = None
    variant: Variant = "designed"
    entropy: Entropy = "surprisal"

    by_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        at_least("initial_chains", self.initial_chains, 1)
        at_least("beam", self.beam, 1)
        at_least("window", self.window, 1)
        finite("probability", self.probability)
        finite("weight", self.weight)
        finite("threshold", self.threshold)
        if self.vocabulary is not None:
            at_least("vocabulary", self.vocabulary, 2)
        if self.chains < self.initial_chains:
            raise ConfigError(
                f"chains must be at least initial_chains = {self.initial_chains}, found "
                f"{self.chains}; raise it"
            )

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        return self.initial_chains

    def forks(self, tree: RolloutTree, iteration: int, rng: Generator) -> list[Node]:
        """Return the turns that go on, and where branches and new chains start."""
        going = [leaf for leaf in tree.leaves() if leaf.reward is None]
        room = self.chains - len(tree.leaves())
        new = self.branches(tree, rng)[:room] if room else []
        if not going and not new:
            new = [tree.root] * (min(room, 1) if self.variant == "released" else room)
        tree.root.info[_STREAK] = tree.root.info.get(_STREAK, 0) + 1 if new else 0
        return going + new

    def branches(self, tree: RolloutTree, rng: Generator) -> list[Node]:
        """Return the parents of the branches that the turns of the last round call for."""
        parents = []
        streak = tree.root.info.get(_STREAK, 0)
        for node in tree.leaves():
            if _JUDGED in node.info:
                continue
            designed = self.variant == "designed"
            # As designed only what follows a tool result; as released only chains that go on.
            if node.depth < 2 if designed else node.reward is not None:
                continue
            rise = self.rise(node)
            for _ in range(self.beam - 1):
                u = self.probability if designed else rng.random()
                node.info[_JUDGED], splits = self.judge(u, rise, streak)
                if splits and node.parent is not None:
                    parents.append(node.parent if designed else node)
        return parents

    def judge(self, u: float, rise: float, streak: int) -> tuple[float, bool]:
        """Return the number that decides and whether the chain splits."""
        if self.variant == "designed":
            p = _unit(u + self.weight * rise)
            return p, p > self.threshold
        p = _unit(u - self.weight * rise)
        return p, p <= self.threshold

    def rise(self, node: Node) -> float:
        """Return dH of a turn against the first turn of its chain."""
        first = node.path()[1] if self.variant == "designed" else _copied(node)
        return self.measure(node) - self.measure(first)

    def measure(self, node: Node) -> float:
        """Return H of a turn: nats of its first tokens over ln V.

        Raises:
            ConfigError: If V is not known.
        """
        if self.vocabulary is None:
            raise ConfigError(
                "vocabulary must be the size of the policy's tokenizer, found None outside a "
                "collection; set it to len(tokenizer.get_vocab())"
            )
        first = token_entropies(node, self.entropy)[: self.window]
        return sum(first) / math.log(self.vocabulary)


@dataclass(frozen=True)
class AEPOBranching(ARPOBranching):
    """ARPO's rounds with a damper on branching again and again, and a measured first batch.

    The number that decides is `(u + weight * dH) * max(0, 1 - damping * l)` with l the rounds in a
    row in which the prompt got a new chain; it must exceed the threshold (released: reach it).

    Attributes:
        damping: Loss of probability per round in a row, at least 0.
        monitor: Run one chain first. It counts as the first of
            m = clip(int(n * sigmoid(sharpness * (H_first - H_mean))) + 1, 1, n) initial chains, n =
            `chains`; the rest is for branching.
        sharpness: See `monitor`.

    Source: AEPO (arXiv 2510.14545); "released" as vllm_rollout_with_tools.py in
    AEPO/verl_aepo_entropy of github.com/zzfoutofspace/ATPO at 98e60f6, where l counts rounds of a
    whole batch and the monitoring pass is thrown away (and off by default).
    """

    damping: float = 0.05
    monitor: bool = False
    sharpness: float = 0.5

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        at_least("damping", self.damping, 0)

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        return 1 if self.monitor else self.initial_chains

    def forks(self, tree: RolloutTree, iteration: int, rng: Generator) -> list[Node]:
        """Return the turns that go on, and where branches and new chains start."""
        if not self.monitor or len(tree.root.children) > 1:
            return super().forks(tree, iteration, rng)
        chain = tree.leaves()[0].path()[1:]
        if chain[-1].reward is None:
            return [chain[-1]]
        for node in chain:
            node.info[_JUDGED] = 0.0  # the monitoring chain itself does not split
        more = min(max(1, self.measured(chain) - 1), self.chains - 1)
        return [tree.root] * more

    def measured(self, chain: list[Node]) -> int:
        """Return the number m of initial chains that the monitoring chain calls for."""
        levels = [self.measure(node) for node in chain]
        rise = self.sharpness * (levels[0] - sum(levels) / len(levels))
        share = self.chains / (1 + math.exp(-rise))
        return min(max(int(share) + 1, 1), self.chains)

    def judge(self, u: float, rise: float, streak: int) -> tuple[float, bool]:
        """Return the number that decides and whether the chain splits."""
        p = _unit((u + self.weight * rise) * max(0.0, 1 - self.damping * streak))
        return p, p > self.threshold if self.variant == "designed" else p >= self.threshold


def _copied(node: Node) -> Node:
    """Return the turn with which the chain of a turn began, as the prompt's or as a copy."""
    while node.parent is not None and node.parent.parent is not None and node.index == 0:
        node = node.parent  # the first turn after another one goes on with its chain
    return node


def _unit(p: float) -> float:
    return min(max(p, 0.0), 1.0)
