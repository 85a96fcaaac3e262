"""Word problems with their solutions, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from at2po_envs.calculator.stories import (
    DISTRACTORS,
    MONEY_QUESTION,
    NAMES,
    SPLIT_QUESTION,
    STORIES,
    Story,
)
from at2po_envs.errors import check_integer, check_known
from at2po_envs.question_sets.questions import Question
from at2po_envs.seeds import SPLITS, Split, choose, stable_hash
from at2po_envs.tools.calculator import calculate, written

_LARGEST = 5000
_COSTS = {"lots": 2, "percent": 2}
"""Operations that an event takes where it is not one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a solution.

    Attributes:
        expression: Numbers and one operator; `#0` is the result of the first step, and so on.
        reason: What it works out, in a few words.
    """

    expression: str
    reason: str

    def filled(self, results: Sequence[str]) -> str:
        """The expression with the results of earlier steps in place."""
        parts = self.expression.split()
        return " ".join(results[int(p[1:])] if p.startswith("#") else p for p in parts)


def solution_of(question: Question) -> tuple[Step, ...]:
    """Read the solution that a problem carries in its metadata.

    Raises:
        ValueError: If it carries none.
    """
    steps = question.metadata.get("steps")
    if steps is None:
        raise ValueError(f"expected a problem of Calculator, found {question!r:.200}")
    return tuple(Step(expression, reason) for expression, reason in steps)


def draw_problems(level: int, split: Split, seed: int, count: int) -> tuple[Question, ...]:
    """Draw different word problems.

    Args:
        level: 1 to 5: problems take 2 to `level + 1` operations; from level 3 on half of them,
            at level 5 all, mention a number that does not matter.
        split: `"train"` or `"test"`: they share no name and no sequence of events and numbers.
        seed: Any integer.
        count: How many, 1 to 100,000.

    Returns:
        Questions with one golden answer, an integer or a finite decimal; `metadata` holds
        `operations` and the solution's `steps`.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_known("the split", split, SPLITS)
    level, seed = check_integer("level", level, 1, 5), check_integer("seed", seed)
    count = check_integer("questions", count, 1, 100_000)
    rng = np.random.default_rng(stable_hash("calculator", level, split, seed))
    found: dict[str, Question] = {}
    while len(found) < count:
        operations = int(rng.integers(2, level + 2))
        draft = _Draft(choose(list(STORIES), rng), rng).write(operations)
        # A quarter of all sequences of events and numbers is kept for the test split.
        if (stable_hash(*draft.key) % 4 == 0) != (split == "test"):
            continue
        text = draft.text(choose(NAMES[split], rng), _distractors(level, rng))
        name = f"calculator_{split}_{level}_{seed}_{len(found)}"
        metadata = {
            "operations": operations,
            "steps": [[step.expression, step.reason] for step in draft.steps],
        }
        found.setdefault(text, Question(name, text, (draft.results[-1],), metadata))
    return tuple(found.values())


def _distractors(level: int, rng: np.random.Generator) -> list[tuple[str, int, float]]:
    """Sentences that do not matter, each with its number and its place in the text, in [0, 1)."""
    if level < 3 or (level < 5 and rng.random() < 0.5):
        return []
    return [(choose(DISTRACTORS, rng), int(rng.integers(11, 60)), float(rng.random()))]


@dataclass
class _Draft:
    """A problem that grows event by event.

    Attributes:
        theme: Name of the story.
        rng: Draws events and numbers.
        steps: The solution so far.
        results: What its steps come to.
        told: The events so far.
        templates: The sentences that they were told in, nothing filled in.
        question: What is asked as it stands.
        money: Whether all has been sold.
        sentences: The text so far, names not filled in.
        key: What tells it from other problems but for the words.
    """

    theme: str
    rng: np.random.Generator
    steps: list[Step] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    key: list[object] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    question: str = ""
    money: bool = False

    @property
    def story(self) -> Story:
        return STORIES[self.theme]

    @property
    def value(self) -> Fraction:
        """What the solution comes to so far."""
        return Fraction(self.results[-1])

    def write(self, operations: int) -> _Draft:
        """Tell a start and events until the operations are used up."""
        self.unit = choose(self.story.units, self.rng)
        self.key.append(self.theme)
        n, m = self._whole(3, 12), self._whole(4, 40)
        self._tell("start", n=n, m=m)
        self._step(f"{n} * {m}", f"{n} times {m} {self.unit}")
        self.question = self.story.question
        while (left := operations - len(self.steps)) > 0:
            events = self._events(left)
            # No event twice in a row, none a third time, as long as there are others.
            fresh = [e for e in events if self.told.count(e) < 2 and e != self.told[-1]]
            getattr(self, f"_{choose(fresh or events, self.rng)}")()
        return self

    def _events(self, left: int) -> list[str]:
        if self.money:
            return ["expense", "gift", *(["split"] if left == 1 and self._parts(100) else [])]
        events = ["more", "fewer"] if self.value > 20 else ["more"]
        events += ["lots"] if left >= 2 else []
        events += ["percent"] if left >= 2 and self._percentages() else []
        events += ["times"] if self.value * 3 <= _LARGEST else []
        events += ["share"] if left == 1 and self._parts(1) else []
        events += ["price"] if left <= 3 else []
        return events

    def _more(self) -> None:
        n = self._whole(5, 90)
        self._tell("more", n=n)
        self._then("+", n, f"{n} more")

    def _fewer(self) -> None:
        n = self._whole(3, min(90, int(self.value) - 5))
        self._tell("fewer", n=n)
        self._then("-", n, f"{n} fewer")

    def _lots(self) -> None:
        n, m = self._whole(2, 9), self._whole(3, 30)
        self._tell("lots", n=n, m=m)
        before = self._last
        self._step(f"{n} * {m}", f"{n} times {m} come on top")
        self._step(f"{before} + {self._last}", "both together")

    def _percent(self) -> None:
        p = choose(self._percentages(), self.rng)
        self._tell("percent", p=p)
        before = self._last
        self._step(f"{before} * {p}%", f"{p}% of that go")
        self._step(f"{before} - {self._last}", "what is left")

    def _times(self) -> None:
        k = self._whole(2, 3)
        self._tell("times", k=k)
        self._then("*", k, f"{k} times as many")

    def _share(self) -> None:
        k = choose(self._parts(1), self.rng)
        self._tell("share", k=k)
        self._then("/", k, f"{k} equal parts")
        self.question = self.story.share_question

    def _price(self) -> None:
        c = Fraction(self._whole(1, 30), 4)
        self._tell("price", c=written(c))
        self._then("*", written(c), f"each brings {written(c)} dollars")
        self.money, self.question = True, MONEY_QUESTION

    def _expense(self) -> None:
        # At most half of the money, in quarters of a dollar.
        c = Fraction(self._whole(1, max(1, int(self.value * 2))), 4)
        self._tell("expense", c=written(c))
        self._then("-", written(c), f"{written(c)} dollars less")

    def _gift(self) -> None:
        c = Fraction(self._whole(4, 200), 4)
        self._tell("gift", c=written(c))
        self._then("+", written(c), f"{written(c)} dollars more")

    def _split(self) -> None:
        k = choose(self._parts(100), self.rng)
        self._tell("split", k=k)
        self._then("/", k, f"{k} equal parts")
        self.question = SPLIT_QUESTION

    def _parts(self, unit: int) -> list[int]:
        """Into how many equal parts the value can be divided without a rest."""
        value = self.value * unit
        return [k for k in range(2, 13) if value.numerator % (value.denominator * k) == 0]

    def _percentages(self) -> list[int]:
        value = self.value
        return [p for p in range(5, 65, 5) if value * p % 100 == 0]

    def _whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _tell(self, event: str, **numbers: int | str) -> None:
        self.key += [event, *sorted(numbers.items())]
        ways = [way for way in self.story.sentences(event) if way not in self.templates]
        told = choose(ways or self.story.sentences(event), self.rng)
        self.templates.append(told)
        self.told.append(event)
        self.sentences.append(told.format(who="{who}", unit=self.unit, **numbers))

    @property
    def _last(self) -> str:
        return f"#{len(self.steps) - 1}"

    def _then(self, operator: str, number: int | str, reason: str) -> None:
        self._step(f"{self._last} {operator} {number}", reason)

    def _step(self, expression: str, reason: str) -> None:
        self.steps.append(Step(expression, reason))
        self.results.append(written(calculate(self.steps[-1].filled(self.results))))

    def text(self, who: str, distractors: Sequence[tuple[str, int, float]]) -> str:
        """The problem in words."""
        sentences = list(self.sentences)
        for sentence, number, place in distractors:
            at = 1 + int(place * len(sentences))
            sentences.insert(at, sentence.replace("{n}", str(number)))
        return " ".join([*sentences, self.question]).format(who=who, unit=self.unit)
