"""Questions over a MiniWiki: single facts, bridges of two to four hops, comparisons, and yes/no."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from at2po_envs.miniwiki.phrases import COMPARISONS, NOUN_PHRASES, QUESTIONS, SAME
from at2po_envs.miniwiki.text import mention
from at2po_envs.miniwiki.world import BY_NAME, Entity, World, check_ranges, pick
from at2po_envs.question_sets.questions import Question
from at2po_envs.seeds import choose, stable_hash

Operation = Literal["value", "less", "more", "same"]

WEIGHTS = {"single": 0.2, "bridge": 0.5, "comparison": 0.15, "yes_no": 0.15}
"""Type of question -> its share, as long as the world still has new ones of that type."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Relations to follow, one search each, from an entity that the question names."""

    start: Entity
    relations: tuple[str, ...]

    def entities(self, world: World) -> list[Entity]:
        """The entities whose passages hold the evidence, in order."""
        path = [self.start]
        for relation in self.relations[:-1]:
            value = world.value(path[-1], relation)
            if isinstance(value, Entity):
                path.append(value)
        return path

    def end(self, world: World) -> Entity | int:
        """What the chain leads to."""
        return world.value(self.entities(world)[-1], self.relations[-1])


@dataclass(frozen=True, slots=True)
class Plan:
    """How to answer: follow one chain, or two and compare what they lead to."""

    operation: Operation
    chains: tuple[Chain, ...]

    def answer(self, world: World) -> str:
        """The right answer in this world."""
        ends = [chain.end(world) for chain in self.chains]
        if self.operation == "value":
            return world.text(ends[0])
        if self.operation == "same":
            return "yes" if ends[0] == ends[1] else "no"
        first, second = (end for end in ends if isinstance(end, int))
        smaller = 0 if first < second else 1
        return world.name(self.chains[smaller if self.operation == "less" else 1 - smaller].start)


def plan_of(question: Question) -> Plan:
    """Read the plan that a MiniWiki question carries in its metadata.

    Args:
        question: A question made by `generate_questions`.

    Returns:
        The plan.

    Raises:
        ValueError: If the question carries none.
    """
    plan = question.metadata.get("plan")
    if plan is None:
        raise ValueError(f"expected a question of MiniWiki, found {question!r} without a plan")
    chains = tuple(
        Chain(Entity(kind, index), tuple(relations)) for kind, index, relations in plan["chains"]
    )
    return Plan(plan["operation"], chains)


def generate_questions(
    world: World, count: int, *, max_hops: int = 2, wordings: int = 2, seed: int = 0
) -> tuple[Question, ...]:
    """Draw different questions about a world.

    Args:
        world: The facts asked about.
        count: Number of questions, >= 1.
        max_hops: Most searches a question may need, 1 to 4.
        wordings: Ways to ask for each relation, 1 or 2.
        seed: Seed of the draw.

    Returns:
        `count` questions in the FlashRAG shape; `metadata` holds `type`, `hops`,
        `supporting_titles` and the plan.

    Raises:
        ValueError: If a number is out of range or the world has too few questions.
    """
    check_ranges(questions=count, max_hops=max_hops, wordings=wordings)
    rng = np.random.default_rng(stable_hash("questions", world.seed, world.split, seed))
    writer = _Writer(world, max_hops, wordings, rng)
    found: dict[str, Question] = {}
    for _ in range(50 * count + 1000):
        if len(found) == count:
            return tuple(found.values())
        drawn = writer.draw(f"miniwiki_{world.split}_{world.seed}_{len(found)}")
        if drawn is not None:
            found.setdefault(drawn.question, drawn)
    raise ValueError(
        f"expected {count} different questions, found only {len(found)} in a world of "
        f"{world.size} passages; ask for fewer questions or a larger world"
    )


class _Writer:
    """Draws questions about one world."""

    def __init__(
        self, world: World, max_hops: int, wordings: int, rng: np.random.Generator
    ) -> None:
        self.world, self.max_hops, self.wordings, self.rng = world, max_hops, wordings, rng
        self.types = [t for t in WEIGHTS if max_hops >= (1 if t == "single" else 2)]
        weights = np.array([WEIGHTS[t] for t in self.types])
        self.weights = weights / weights.sum()
        self._agreeing = cache(self._find_agreeing)

    def draw(self, question_id: str) -> Question | None:
        """Try one question; None where a type has none that is no tie and no circle."""
        kind = str(self.rng.choice(self.types, p=self.weights))
        # The type stays while ties and circles are drawn again, or the rare ones would be rarer.
        tries = (getattr(self, f"_{kind}")() for _ in range(64))
        made = next((question for question in tries if question), None)
        if made is None:
            return None
        text, plan = made
        titles = [self.world.title(e) for c in plan.chains for e in c.entities(self.world)]
        metadata = {
            "type": kind,
            "hops": len(titles),
            "supporting_titles": list(dict.fromkeys(titles)),
            "plan": {
                "operation": plan.operation,
                "chains": [[c.start.kind, c.start.index, list(c.relations)] for c in plan.chains],
            },
        }
        text = text[0].upper() + text[1:]
        return Question(question_id, text, (plan.answer(self.world),), metadata)

    def _single(self) -> tuple[str, Plan] | None:
        return self._chain_question(1)

    def _bridge(self) -> tuple[str, Plan] | None:
        return self._chain_question(int(self.rng.integers(2, self.max_hops + 1)))

    def _chain_question(self, hops: int) -> tuple[str, Plan] | None:
        chain = self._walk(self._entity(), hops)
        if chain is None:
            return None
        return self._ask(chain), Plan("value", (chain,))

    def _comparison(self) -> tuple[str, Plan] | None:
        names = [r.name for r in self.world.all_relations if r.is_number]
        number = choose(names, self.rng)
        pair = self._pair(BY_NAME[number].subject, number)
        larger = int(self.rng.integers(2))
        text = self._fill(COMPARISONS[number][larger], pair)
        plan = Plan("more" if larger else "less", pair)
        ends = [chain.end(self.world) for chain in pair]
        return None if ends[0] == ends[1] or pair[0].start == pair[1].start else (text, plan)

    def _yes_no(self) -> tuple[str, Plan] | None:
        names = [r.name for r in self.world.relations if r.name in SAME]
        relation = choose(names, self.rng)
        pair = self._pair(BY_NAME[relation].subject, relation)
        if pair[0].start == pair[1].start:
            return None
        # A coin decides the answer first: two entities drawn at random would nearly always differ.
        same = pair[0].end(self.world) == pair[1].end(self.world)
        if same != bool(self.rng.integers(2)):
            return None
        return self._fill(SAME[relation], pair), Plan("same", pair)

    def _pair(self, kind: str, relation: str) -> tuple[Chain, Chain]:
        """Two chains that end in the same relation; of four hops allowed, half are bridges."""
        hop = None
        if self.max_hops == 4 and self.rng.random() < 0.5:
            into = [r for r in self.world.relations if r.object == kind and r.subject != kind]
            hop = choose(into, self.rng) if into else None
        start_kind, relations = (hop.subject, (hop.name, relation)) if hop else (kind, (relation,))
        count = self.world.counts[start_kind]
        first, second = (Entity(start_kind, int(i)) for i in self.rng.integers(count, size=2))
        if relation in SAME and self.rng.random() < 0.5:
            first, second = self._partners(start_kind, relations) or (first, second)
        return Chain(first, relations), Chain(second, relations)

    def _partners(self, kind: str, relations: tuple[str, ...]) -> tuple[Entity, Entity] | None:
        """Two of a kind whose chains lead to the same place."""
        pairs = self._agreeing(kind, relations)
        if not len(pairs):
            return None
        first, second = pairs[self.rng.integers(len(pairs))].tolist()
        return Entity(kind, first), Entity(kind, second)

    def _find_agreeing(self, kind: str, relations: tuple[str, ...]) -> np.ndarray:
        """All pairs of neighbours once a kind is sorted by where its chains lead, shape [n, 2]."""
        ends = self.world.ends(kind, relations)
        order = np.argsort(ends, kind="stable")
        same = np.flatnonzero(ends[order[1:]] == ends[order[:-1]])
        return np.stack([order[same], order[same + 1]], axis=1)

    def _entity(self) -> Entity:
        kinds = [k for k in self.world.counts if self.world.relations_of(k)]
        kind = choose(kinds, self.rng)
        return Entity(kind, int(self.rng.integers(self.world.counts[kind])))

    def _walk(self, start: Entity, hops: int) -> Chain | None:
        """A random chain of that many hops which never comes back to where it was."""
        seen, entity, relations = {start}, start, []
        for hop in range(hops):
            options = self.world.relations_of(entity.kind)
            if hop < hops - 1:
                options = tuple(r for r in options if not r.is_number)
            if not options:
                return None
            relation = choose(options, self.rng)
            relations.append(relation.name)
            value = self.world.value(entity, relation.name)
            if isinstance(value, Entity):
                if value in seen:
                    return None
                seen.add(value)
                entity = value
        return Chain(start, tuple(relations))

    def _fill(self, template: str, pair: tuple[Chain, Chain]) -> str:
        a, b = (self._noun_phrase(chain, chain.relations[:-1]) for chain in pair)
        if template.startswith(("Who ", "Which ")) and len(pair[0].relations) == 2:
            noun = BY_NAME[pair[0].relations[0]].noun
            verb = template.split(" ", 1)[1].split(",")[0]
            names = " or ".join(mention(self.world, chain.start) for chain in pair)
            return f"Whose {noun} {verb}, {names}?"
        return template.format(a=a, b=b)

    def _ask(self, chain: Chain) -> str:
        subject = self._noun_phrase(chain, chain.relations[:-1])
        return self._pick(QUESTIONS[chain.relations[-1]]).format(x=subject)

    def _noun_phrase(self, chain: Chain, relations: tuple[str, ...]) -> str:
        phrase = mention(self.world, chain.start)
        for relation in relations:
            phrase = self._pick(NOUN_PHRASES[relation]).format(x=phrase)
        return phrase

    def _pick(self, options: tuple[str, ...]) -> str:
        return pick(options[: self.wordings], int(self.rng.integers(2**32)))
