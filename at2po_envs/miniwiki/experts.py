"""Scripted agents for MiniWiki: one that plays it perfectly, and one that errs at a set rate."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Literal

import numpy as np

from at2po_envs.episode.core import ToolQA
from at2po_envs.miniwiki.phrases import FACTS
from at2po_envs.miniwiki.questions import Plan, plan_of
from at2po_envs.miniwiki.world import BY_NAME, Entity, World
from at2po_envs.question_sets.questions import Question
from at2po_envs.scripted import Script, Scripted, check_rate
from at2po_envs.seeds import choose

Value = Entity | int
"""What a chain leads to."""

Error = Literal["wrong query", "misread", "bad format"]
ERRORS: tuple[Error, ...] = ("wrong query", "misread", "bad format")

_TITLE = re.compile(r'^(?:Page \d+: )?"([^"\n]+)"$', re.MULTILINE)


class ScriptedAgent(Scripted):
    """Plays MiniWiki from its facts, one search a hop, with thoughts a small model can learn from.

    Args:
        world: The facts that the questions are about.
        questions: The questions it may be asked.
        core: Rules of the environment; they tell which prompt belongs to which question.
        error_rate: Chance that a turn goes wrong, in [0, 1]: a wrong query, a misread result, or a
            tag or box forgotten.
        haste: Chance that a turn answers with the stop it has reached although the chain of facts
            goes on, in [0, 1]. With both at 0 it plays perfectly.
        seed: Seed of the errors; the same question gets the same errors.

    Raises:
        ValueError: If a rate is out of range.
    """

    core: ToolQA

    def __init__(
        self,
        world: World,
        questions: Sequence[Question],
        core: ToolQA,
        *,
        error_rate: float = 0.0,
        haste: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Keep the parts."""
        super().__init__(questions, core, error_rate=error_rate, seed=seed)
        check_rate("haste", haste)
        self.world, self.haste = world, haste

    def play(self, question: Question, seed: int | None = None) -> Script:
        """Start the script of one question; it ends itself with an answer."""
        return _Play(self, plan_of(question), self._generator(question, seed)).script()


class _Play:
    """One episode: what is known so far, and the errors drawn for it."""

    def __init__(self, agent: ScriptedAgent, plan: Plan, rng: np.random.Generator) -> None:
        self.world, self.error_rate, self.haste = agent.world, agent.error_rate, agent.haste
        self.plan, self.rng = plan, rng
        self.hops = sum(len(chain.relations) for chain in plan.chains)
        self.searches = agent.core.max_tool_calls

    def script(self) -> Script:
        """Follow the plan hop by hop, then answer for good."""
        ends: list[Value] = []
        thought = f"I need {self._needs()}."
        for number, chain in enumerate(self.plan.chains):
            if number:
                thought += f" Now {self.world.name(chain.start)}."
            subject: Value = chain.start
            for hop, relation in enumerate(chain.relations):
                if hop:
                    if self._hurries():
                        yield from self._answers(thought, self.world.text(subject))
                    thought += f" Next the {BY_NAME[relation].noun}."
                subject = yield from self._look_up(thought, subject, relation, self._error())
                # With two chains the thought says whose fact it is: the answer is one of the two.
                whose = f" of {self.world.name(chain.start)}" if len(self.plan.chains) > 1 else ""
                thought = f"The {BY_NAME[relation].noun}{whose} is {self.world.text(subject)}."
            ends.append(subject)
        reason, answer = self._conclude(ends)
        yield from self._answers(thought + reason, answer)

    def _look_up(
        self, thought: str, subject: Value, relation: str, error: Error | None
    ) -> Generator[str, str, Value]:
        """Search for a subject and return the fact, or what the error makes of it."""
        if not isinstance(subject, Entity):
            raise TypeError(f"expected an entity that has a {relation}, found {subject}")
        asked = self._namesake(subject) if error == "wrong query" else subject
        self.hops -= 1
        observation = ""
        if self.searches > 0:  # else it goes on from what it knows
            self.searches -= 1
            observation = yield self._search(thought, asked, error)
            if error is None:
                yield from self._search_again(asked, relation, observation)
        value = self.world.value(asked, relation)
        return self._misread(asked, relation, value, observation) if error == "misread" else value

    def _needs(self) -> str:
        chain = self.plan.chains[0]
        nouns = ", then ".join(f"the {BY_NAME[r].noun}" for r in chain.relations)
        if self.plan.operation == "value":
            return nouns
        # What is asked for is said early, close to the question; the conclusion only repeats it.
        asked = "" if self.plan.operation == "same" else f"the {self._asked()} of "
        return f"{asked}{nouns} of " + " and ".join(
            self.world.name(c.start) for c in self.plan.chains
        )

    def _asked(self) -> str:
        return "lower" if self.plan.operation == "less" else "higher"

    def _conclude(self, ends: Sequence[Value]) -> tuple[str, str]:
        if self.plan.operation == "value":
            return "", self.world.text(ends[0])
        first, second = (self.world.text(end) for end in ends)
        if self.plan.operation == "same":
            same = first == second
            return (
                f" {first} and {second} {'agree' if same else 'differ'}.",
                "yes" if same else "no",
            )
        # One small step a sentence: how the numbers lie, which is asked for, whose it is.
        rises = int(first) < int(second)
        lower = self.plan.operation == "less"
        name = self.world.name(self.plan.chains[0 if rises == lower else 1].start)
        way = "rises" if rises else "falls"
        return f" From {first} to {second} it {way}. The {self._asked()} is {name}.", name

    def _search(self, thought: str, subject: Entity, error: Error | None) -> str:
        query = self.world.title(subject).replace("(", "").replace(")", "")
        close = "" if error == "bad format" else " </think>"
        return f"<think> {thought}{close} <search> {query} </search>"

    def _search_again(self, subject: Entity, relation: str, observation: str) -> Script:
        """Ask in other words for a passage that did not come, if the hops ahead leave a search."""
        title = self.world.title(subject)
        verb = FACTS[relation][0].format(s="", o="").strip(" .")
        for words in (BY_NAME[relation].noun, verb):
            if title in _TITLE.findall(observation) or self.searches <= self.hops:
                return
            self.searches -= 1
            observation = yield (
                f"<think> {title} is missing. </think> <search> {title} {words} </search>"
            )

    def _answers(self, thought: str, answer: str) -> Script:
        while True:
            box = answer if self._error() == "bad format" else f"\\boxed{{ {answer} }}"
            yield f"<think> {thought} </think> <answer> {box} </answer>"

    def _hurries(self) -> bool:
        return bool(self.rng.random() < self.haste)

    def _error(self) -> Error | None:
        if self.rng.random() >= self.error_rate:
            return None
        return choose(ERRORS, self.rng)

    def _namesake(self, subject: Entity) -> Entity:
        """Somebody else of the kind, preferably of the same last name."""
        names = self.world.names[subject.kind]
        last = names[subject.index].rsplit(" ", 1)[-1]
        candidates = [int(i) for i in self.rng.integers(len(names), size=32) if i != subject.index]
        alike = [i for i in candidates if names[i].endswith(last)]
        return Entity(subject.kind, (alike or candidates or [subject.index])[0])

    def _misread(self, subject: Entity, relation: str, value: Value, observation: str) -> Value:
        """The same fact of another page of the result, or just another entity."""
        for title in _TITLE.findall(observation):
            other = self.world.by_title.get(title)
            if other is not None and other.kind == subject.kind and other != subject:
                return self.world.value(other, relation)
        if isinstance(value, int):
            return value + int(self.rng.integers(1, 10))
        return self._namesake(value)
