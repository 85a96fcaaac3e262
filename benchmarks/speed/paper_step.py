"""Trees of a training step of the paper's setting: lengths and times drawn at random, all ids 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import chain

import numpy as np
from numpy.random import Generator

from at2po_agents.tree import Node, RolloutTree

TOOL_SECONDS = "tool_seconds"
"""Where the `info` of a turn that was drawn says how long its tool takes."""


@dataclass(eq=False, slots=True)
class Plan:
    """A tree, and the order in which its chains begin.

    Attributes:
        tree: The tree, complete.
        waves: First turns of the initial chains, then those of each expansion. A turn that leads on
            to others is followed by its first child in its own chain.
        learned: Whether an update learns from it: not where all its leaves earned the same.
    """

    tree: RolloutTree
    waves: list[list[Node]] = field(default_factory=list)
    learned: bool = True


@dataclass(frozen=True)
class PaperStep:
    """A step of the paper's setting.

    Attributes:
        prompts: Questions per step.
        chains: M.
        iterations: L.
        beam: K; a tree has M + L * K = 22 leaves.
        mean_turns: Turns per chain, on average.
        most_turns: Most turns of a chain: at most 6 tool calls in the paper's runs.
        prompt: Tokens of a prompt.
        turn: Mean of the tokens sampled in a turn. An assumption: the paper does not say.
        turn_spread: Standard deviation of their logarithm. An assumption.
        result: Tokens of a search's result: 3 passages of 100 words at 1.35 tokens a word, and 35
            for titles and tags. An assumption too.
        tool_seconds: Mean seconds of a tool call. An assumption, as of a retriever that is shared.
        tool_spread: Standard deviation of the logarithm of its seconds. An assumption.
        mini_batches: Optimizer steps per update.

    Source: AT2PO (arXiv 2601.04767), Section 4.1 and its released code, but for assumptions.
    """

    prompts: int = 64
    chains: int = 10
    iterations: int = 2
    beam: int = 6
    mean_turns: float = 3.71
    most_turns: int = 7
    prompt: int = 230
    turn: int = 120
    turn_spread: float = 0.5
    result: int = 440
    tool_seconds: float = 0.5
    tool_spread: float = 1.0
    mini_batches: int = 8

    def draw(self, questions: int, rng: Generator) -> list[Plan]:
        """Draw trees; forks start at random turns, as in the paper's random ablation.

        The number of a chain's turns is 1 + binomial; a fork's is drawn on the condition that the
        chain came as far as there. Tokens and seconds are lognormal.

        Args:
            questions: How many.
            rng: Draws everything.
        """
        return [self._plan(rng) for _ in range(questions)]

    def _plan(self, rng: Generator) -> Plan:
        plan = Plan(RolloutTree("", _zeros(self.prompt)))
        root = plan.tree.root
        grown = [root]
        for iteration in range(self.iterations + 1):
            parents = self._forks(grown, rng) if iteration else [root] * self.chains
            chains = [self._chain(plan.tree, parent, rng) for parent in parents]
            plan.waves.append([turns[0] for turns in chains])
            grown += chain(*chains)
        return plan

    def _forks(self, grown: list[Node], rng: Generator) -> list[Node]:
        """Draw turns that led on to another one, or the prompt; return what is before them."""
        candidates = [node for node in grown if node.children]
        few = len(candidates) < self.beam
        drawn = (candidates[i] for i in rng.choice(len(candidates), self.beam, replace=few))
        return [node.parent or node for node in drawn]

    def _chain(self, tree: RolloutTree, node: Node, rng: Generator) -> list[Node]:
        """Append a chain behind a node; return its turns."""
        done, trials, turns = node.depth, self.most_turns - 1, 0
        while turns <= done:
            turns = 1 + int(rng.binomial(trials, (self.mean_turns - 1) / trials))
        found = []
        for left in reversed(range(turns - done)):
            sampled = max(1, round(_lognormal(self.turn, self.turn_spread, rng)))
            node = tree.add(node, sampled=_zeros(sampled))
            if left:
                node.inserted = _zeros(self.result)
                node.info[TOOL_SECONDS] = _lognormal(self.tool_seconds, self.tool_spread, rng)
            found.append(node)
        return found


@cache
def _zeros(count: int) -> list[int]:
    """Ids of so many tokens; a million turns share these lists, so nobody changes them."""
    return [0] * count


def _lognormal(mean: float, spread: float, rng: Generator) -> float:
    return mean * float(np.exp(spread * rng.standard_normal() - spread**2 / 2))
