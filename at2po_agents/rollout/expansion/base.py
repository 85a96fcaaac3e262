"""What an expansion is: it says where a tree grows; and the simplest one, chains."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass
from typing import ClassVar, Protocol, runtime_checkable

from numpy.random import Generator

from at2po_agents.errors import ConfigError
from at2po_agents.rollout.expansion.entropy_measures import Entropy
from at2po_agents.tree import Node, RolloutTree


class Expansion(Protocol):
    """Answers one question: which node do I fork next, and how often?

    A strategy holds settings only; what it must remember of a tree it writes into the `info` of
    the tree's nodes.

    Attributes:
        by_turn: Whether `forks` is asked whenever all running chains of the tree have ended a
            turn. Chains then go on only where `forks` says so. Otherwise it is asked once all
            chains are complete.
    """

    @property
    def by_turn(self) -> bool:
        """See above."""
        ...

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        ...

    def forks(self, tree: RolloutTree, iteration: int, rng: Generator) -> list[Node]:
        """Choose where new turns start.

        Args:
            tree: A tree none of whose turns is being sampled.
            iteration: Number of times the tree was asked before, from 0.
            rng: Draws of this expansion; its seed follows from run, step, question and iteration.

        Returns:
            The PARENT of each new turn, one entry per turn; empty when the tree is done.
        """
        ...


@runtime_checkable
class MeasuresEntropy(Protocol):
    """A strategy that looks at how uncertain the policy was."""

    @property
    def entropy(self) -> Entropy:
        """The estimate; for "query" the collector finds the tokens of the tool calls."""
        ...


@runtime_checkable
class ScaledByVocabulary(Expansion, Protocol):
    """A dataclass where the collector puts the size of the policy's vocabulary, if it is None."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]

    @property
    def vocabulary(self) -> int | None:
        """Number of entries in the vocabulary of the policy's tokenizer."""
        ...


@dataclass(frozen=True)
class Chains:
    """Independent chains from the prompt, no forks.

    Attributes:
        chains: Number of chains, at least 1.
    """

    chains: int

    by_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields."""
        at_least("chains", self.chains, 1)

    def initial(self) -> int:
        """Return the number of chains that start at the root."""
        return self.chains

    def forks(self, tree: RolloutTree, iteration: int, rng: Generator) -> list[Node]:
        """Return no forks."""
        return []


def at_least(name: str, value: float, minimum: float) -> None:
    """Raise `ConfigError` unless a setting is finite and reaches its minimum (NaN does not)."""
    finite(name, value)
    if value < minimum:
        raise ConfigError(f"{name} must be at least {minimum}, found {value}; raise it")


def finite(name: str, value: float) -> None:
    """Raise `ConfigError` unless a setting is finite: what else there is makes others NaN."""
    if not -math.inf < value < math.inf:
        raise ConfigError(f"{name} must be a finite number, found {value}; usual is below 1")
