"""What scripted agents share: they write turns from a transcript, and err at a set rate."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from at2po_envs.episode.protocols import Core
from at2po_envs.question_sets.questions import Question
from at2po_envs.seeds import stable_hash

Script = Generator[str, str, None]
"""Yields what the agent writes in a turn, is sent the observation that answers it."""


class Scripted:
    """An agent that plays the questions of an environment by a script; subclasses write it.

    Args:
        questions: The questions it may be asked.
        core: Rules of the environment; they tell which prompt belongs to which question.
        error_rate: Chance that a turn goes wrong, in [0, 1].
        seed: Seed of the errors; the same question gets the same errors.

    Raises:
        ValueError: If the rate is out of range.
    """

    asked: ClassVar[str] = "questions"
    """What the environment's questions are called."""

    def __init__(
        self,
        questions: Sequence[Question],
        core: Core,
        *,
        error_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Keep the parts."""
        check_rate("error_rate", error_rate)
        self.questions, self.core = questions, core
        self.error_rate, self.seed = error_rate, seed

    @property
    def settings(self) -> dict[str, float]:
        """All that decides about its turns, beside the seed."""
        rates = ("error_rate", "haste")
        return {name: getattr(self, name) for name in rates if hasattr(self, name)}

    def act(self, transcripts: Sequence[Sequence[str]]) -> list[str]:
        """Write the next turn of every episode.

        Args:
            transcripts: One sequence an episode: observation, action, observation, …, observation.

        Returns:
            One text an episode.

        Raises:
            ValueError: If a prompt belongs to none of the agent's questions.
        """
        return [self._next(self._question(each[0]), each) for each in transcripts]

    def play(self, question: Question, seed: int | None = None) -> Script:
        """Start the script of one question.

        Args:
            question: One of the agent's questions.
            seed: Seed of this play's errors; the agent's own by default.

        Returns:
            A generator of turns, to be sent the observations.
        """
        raise NotImplementedError(f"{type(self).__name__} has no script; override play")

    def _generator(self, question: Question, seed: int | None) -> np.random.Generator:
        """What draws the errors of a play."""
        return np.random.default_rng(stable_hash(self.seed if seed is None else seed, question.key))

    def _next(self, question: Question, transcript: Sequence[str]) -> str:
        # The script is played again from the start, so the agent keeps no state of its own.
        script = self.play(question)
        action = next(script)
        for observation in transcript[2::2]:
            action = script.send(observation)
        return action

    def _question(self, prompt: str) -> Question:
        if prompt not in self._by_prompt:
            raise ValueError(
                f"expected the prompt of one of {len(self.questions)} known {self.asked}, "
                f"found {prompt[-200:]!r}; build the agent from the environment it plays"
            )
        return self._by_prompt[prompt]

    @cached_property
    def _by_prompt(self) -> dict[str, Question]:
        return {self.core.begin(question)[1]: question for question in self.questions}


@runtime_checkable
class WithExpert(Protocol):
    """An environment that has a scripted agent."""

    def expert(self, **settings: float) -> Scripted:
        """Return an agent for its questions; all know `error_rate` and `seed`."""
        ...


def check_rate(name: str, rate: float) -> None:
    """Raise ValueError unless a rate lies in [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], found {rate}")
