"""The facts of a MiniWiki: a small world of people, works, firms and places, drawn from a seed.

Facts are kept as one integer array per relation and names as plain strings, so a million entities
take about 130 MB; every passage is written only when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from at2po_envs.errors import check_integer, check_known
from at2po_envs.miniwiki.names import draw_names
from at2po_envs.seeds import SPLITS, Split, stable_hash

SHARES = {
    "person": 0.38,
    "film": 0.19,
    "book": 0.19,
    "company": 0.10,
    "city": 0.07,
    "river": 0.03,
    "country": 0.02,
    "award": 0.02,
}
"""Kind of entity -> its share of the passages."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact: every entity of kind `subject` has one value.

    Attributes:
        name: Key of the relation.
        subject: Kind of entity that has it.
        object: Kind of entity that is its value, or `"year"` or `"length"` for a number.
        noun: What the value is called in a thought ("director").
    """

    name: str
    subject: str
    object: str
    noun: str

    @property
    def is_number(self) -> bool:
        """Whether the value is a number rather than an entity."""
        return self.object in ("year", "length")


RELATIONS = (
    Relation("director", "film", "person", "director"),
    Relation("author", "book", "person", "author"),
    Relation("founder", "company", "person", "founder"),
    Relation("birthplace", "person", "city", "birthplace"),
    Relation("headquarters", "company", "city", "headquarters"),
    Relation("country", "city", "country", "country"),
    Relation("spouse", "person", "person", "spouse"),
    Relation("river", "city", "river", "river"),
    Relation("employer", "person", "company", "employer"),
    Relation("based_on", "film", "book", "source book"),
    Relation("publisher", "book", "company", "publisher"),
    Relation("capital", "country", "city", "capital"),
    Relation("star", "film", "person", "star"),
    Relation("award", "person", "award", "award"),
    Relation("presenter", "award", "company", "presenter"),
)
"""All entity-valued relations; a world of n relations has the first n (at least eight)."""

NUMBERS = (
    Relation("release_year", "film", "year", "release year"),
    Relation("publication_year", "book", "year", "publication year"),
    Relation("birth_year", "person", "year", "birth year"),
    Relation("founding_year", "company", "year", "founding year"),
    Relation("length", "river", "length", "length"),
)
"""Number-valued relations, used for single questions and comparisons; every world has them all."""

BY_NAME = {relation.name: relation for relation in (*RELATIONS, *NUMBERS)}

RANGES = {
    "passages": (100, 1_000_000),
    "relations": (8, len(RELATIONS)),
    "max_hops": (1, 4),
    "phrasings": (1, 4),
    "wordings": (1, 2),
    "sentences": (0, 9),
    "results": (1, 100),
    "namesakes": (1, 1000),
    "questions": (1, 1_000_000),
}
"""Setting of a MiniWiki -> its least and greatest value."""


def check_ranges(**settings: int) -> None:
    """Check settings of a MiniWiki.

    Args:
        **settings: Values by key of `RANGES`.

    Raises:
        ValueError: If one is not an integer in its range.
    """
    for name, value in settings.items():
        check_integer(name, value, *RANGES[name])


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing that has a passage: its kind and its number within the kind."""

    kind: str
    index: int


class World:
    """A set of entities and one value per entity and relation.

    Args:
        seed: Any integer; the same arguments give the same world on every machine.
        size: Number of entities, which is the number of passages; 100 to 1,000,000.
        split: Half of the names to draw from; worlds of different splits share no name.
        relations: How many of `RELATIONS` hold, 8 to 15.
        namesakes: How many names share their last word on average, >= 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        split: Split = "train",
        relations: int = 8,
        namesakes: int = 3,
    ) -> None:
        """Draw the names and then the facts."""
        check_ranges(passages=size, relations=relations, namesakes=namesakes)
        check_known("the split", split, SPLITS)
        # Plain integers, because the repr of NumPy's would give another hash and another world.
        size, relations, namesakes = map(int, (size, relations, namesakes))
        seed = check_integer("seed", seed)
        self.seed, self.size, self.split = seed, size, split
        self.relations = RELATIONS[:relations]
        rng = np.random.default_rng(stable_hash("world", seed, size, split, relations, namesakes))
        kinds = [k for k in SHARES if any(k in (r.subject, r.object) for r in self.relations)]
        self.counts = _apportion({kind: SHARES[kind] for kind in kinds}, size)
        self.names = {
            kind: draw_names(kind, n, split, rng, namesakes) for kind, n in self.counts.items()
        }
        self.all_relations = (*self.relations, *NUMBERS)
        self._of_kind = {
            kind: tuple(r for r in self.all_relations if r.subject == kind) for kind in kinds
        }
        self._values = {relation.name: self._draw(relation, rng) for relation in self.all_relations}
        if "capital" in self._values:  # which lies in the country that it governs
            self._values["country"][self._values["capital"]] = np.arange(self.counts["country"])
        self._share_titles(rng)

    def relations_of(self, kind: str) -> tuple[Relation, ...]:
        """Relations that entities of a kind have, numbers last."""
        return self._of_kind[kind]

    def name(self, entity: Entity) -> str:
        """Name of an entity as prose uses it ("Silver Harbor")."""
        return self.names[entity.kind][entity.index]

    def title(self, entity: Entity) -> str:
        """Title of an entity's passage ("Silver Harbor (film)"); unique in the world."""
        suffix = f" ({entity.kind})" if entity.kind in ("film", "book") else ""
        return self.name(entity) + suffix

    def value(self, entity: Entity, relation: str) -> Entity | int:
        """The fact itself: the entity, or the number, that the relation gives."""
        value = int(self._values[relation][entity.index])
        kind = BY_NAME[relation].object
        return value if BY_NAME[relation].is_number else Entity(kind, value)

    def ends(self, kind: str, relations: Sequence[str]) -> np.ndarray:
        """Follow relations from all entities of a kind at once.

        Args:
            kind: Where to start.
            relations: Names of relations, each of the kind that the one before leads to.

        Returns:
            For each entity of the kind the number, or the index of the entity, it leads to.
        """
        ends = np.arange(self.counts[kind])
        for relation in relations:
            ends = self._values[relation][ends]
        return ends

    def text(self, value: Entity | int) -> str:
        """A value as an answer would state it."""
        return self.name(value) if isinstance(value, Entity) else str(value)

    def entity_at(self, position: int) -> Entity:
        """Entity number `position` of the whole world, in order of kind."""
        if not 0 <= position < self.size:
            raise IndexError(f"expected a position from 0 to {self.size - 1}, found {position}")
        kinds = iter(self.counts)
        while position >= self.counts[kind := next(kinds)]:
            position -= self.counts[kind]
        return Entity(kind, position)

    @cached_property
    def by_title(self) -> dict[str, Entity]:
        """Title of a passage -> the entity it is about."""
        return {self.title(e): e for e in map(self.entity_at, range(self.size))}

    def _draw(self, relation: Relation, rng: np.random.Generator) -> np.ndarray:
        n = self.counts[relation.subject]
        if relation.object == "year":
            return rng.integers(1850, 2020, size=n)
        if relation.object == "length":
            return rng.integers(40, 1000, size=n)
        if relation.name == "spouse":
            return _couples(n, rng)
        if relation.name == "capital":
            return rng.choice(self.counts["city"], size=n, replace=False)
        return rng.integers(self.counts[relation.object], size=n)

    def _share_titles(self, rng: np.random.Generator) -> None:
        """Give a third of the films the title of a book, of their source where that is a fact."""
        films, books = self.names["film"], self.names["book"]
        source = self._values.get("based_on", rng.permutation(max(len(films), len(books))))
        taken = set(films)
        for film in np.flatnonzero(rng.random(len(films)) < 1 / 3):
            title = books[int(source[film]) % len(books)]
            if title not in taken:
                taken.add(title)
                films[film] = title


def _couples(n: int, rng: np.random.Generator) -> np.ndarray:
    """Marry everybody to somebody else, mutually; the count is even."""
    order = rng.permutation(n)
    spouse = np.empty(n, dtype=np.int64)
    spouse[order[::2]], spouse[order[1::2]] = order[1::2], order[::2]
    return spouse


def _apportion(shares: dict[str, float], size: int) -> dict[str, int]:
    total = sum(shares.values())
    counts = {kind: max(3, int(size * share / total)) for kind, share in shares.items()}
    counts["person"] += size - sum(counts.values())
    odd = counts["person"] % 2  # one too many to marry
    counts["person"] -= odd
    counts["film"] += odd
    return counts


def pick(options: Sequence[str], *parts: object) -> str:
    """Choose one option by a stable hash of the parts."""
    return options[stable_hash(*parts) % len(options)]
