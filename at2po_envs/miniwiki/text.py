"""How MiniWiki is written up: one short passage an entity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from at2po_envs.miniwiki.phrases import FACTS, FILLERS
from at2po_envs.miniwiki.world import Entity, World, check_ranges, pick
from at2po_envs.seeds import stable_hash
from retrieval import Passage


def mention(world: World, entity: Entity) -> str:
    """An entity as a question names it: works by kind and name, the rest by name alone."""
    articles = {"film": "the film ", "book": "the book ", "river": "the ", "award": "the "}
    return articles.get(entity.kind, "") + world.name(entity)


class WorldPassages(Sequence[Passage]):
    """The passages of a world, one an entity, written when they are read.

    Args:
        world: The facts.
        phrasings: How many ways each fact may be put, 1 to 4.
        sentences: Least number of sentences a passage, 0 to 9; facts come first, fillers make up
            the rest.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, world: World, *, phrasings: int = 2, sentences: int = 0) -> None:
        """Keep the settings; nothing is written yet."""
        check_ranges(phrasings=phrasings, sentences=sentences)
        self.world, self.phrasings, self.sentences = world, phrasings, sentences

    def __len__(self) -> int:
        """Number of passages: one an entity."""
        return self.world.size

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        """Write one passage, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        entity = self.world.entity_at(position)
        return Passage(str(position), self.world.title(entity), " ".join(self._sentences(entity)))

    def _sentences(self, entity: Entity) -> Iterator[str]:
        world, salt = self.world, (self.world.seed, entity.kind, entity.index)
        facts = sorted(
            world.relations_of(entity.kind), key=lambda r: pick("0123456789", *salt, r.name)
        )
        name = world.name(entity)
        for number, relation in enumerate(facts):
            phrasings = FACTS[relation.name][: self.phrasings]
            if number == 0:  # says whom or what the rest is about; searches rely on it, too
                phrasings = tuple(phrasing for phrasing in phrasings if "{s}" in phrasing)
            phrasing = pick(phrasings, *salt, relation.name, "fact")
            yield phrasing.format(s=name, o=world.text(world.value(entity, relation.name)))
        fillers = FILLERS[entity.kind]
        start = stable_hash(*salt, "filler")
        for i in range(self.sentences - len(facts)):
            yield fillers[(start + i) % len(fillers)]
