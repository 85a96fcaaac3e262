"""MiniWiki: an embedded world with passages, questions and a retriever, made from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from at2po_envs.errors import check_known
from at2po_envs.miniwiki.questions import generate_questions
from at2po_envs.miniwiki.text import WorldPassages
from at2po_envs.miniwiki.world import RANGES, World, check_ranges
from at2po_envs.question_sets.questions import Question
from at2po_envs.seeds import Split
from retrieval import BM25, Passage


@dataclass(frozen=True)
class MiniWiki:
    """The settings of a generated encyclopaedia; equal settings give equal text everywhere.

    Attributes:
        seed: Which world; any integer.
        split: Half of the names it draws from: worlds of `"train"` and `"test"` share no title.
        passages: Number of passages, 100 to 1,000,000; one an entity.
        relations: Entity-valued relations that hold, 8 to 15.
        max_hops: Most searches a question needs, 1 to 4.
        phrasings: Ways in which each fact is put, 1 to 4.
        wordings: Ways in which each relation is asked for, 1 or 2.
        sentences: Least number of sentences a passage, 0 to 9; beyond the facts come fillers.
        results: Passages that a search returns, 1 to 100.
        namesakes: Entities of a kind that share their last word on average, 1 to 1,000.
        questions: Number of questions, 1 to 1,000,000.

    Raises:
        ValueError: If a setting is out of range.
    """

    seed: int = 0
    split: Split = "train"
    passages: int = 2000
    relations: int = 15
    max_hops: int = 4
    phrasings: int = 4
    wordings: int = 2
    sentences: int = 6
    results: int = 3
    namesakes: int = 3
    questions: int = 1000

    def __post_init__(self) -> None:
        """Refuse settings out of range before anything is generated."""
        check_ranges(**{name: getattr(self, name) for name in RANGES})

    @classmethod
    def preset(cls, name: str, **changes: Any) -> MiniWiki:
        """Build a MiniWiki from a named preset.

        Args:
            name: `"demo"` (short passages, two results, three hops at most: a model of a few
                million parameters learns it in minutes), `"standard"` or `"hard"`.
            **changes: Fields that differ from the preset.

        Returns:
            The settings.

        Raises:
            UnknownNameError: If there is no such preset or field.
            ValueError: If a field is out of range.
        """
        check_known("a MiniWiki preset", name, PRESETS)
        for change in changes:
            check_known("a setting of MiniWiki", change, [field.name for field in fields(cls)])
        return replace(PRESETS[name], **changes)

    @cached_property
    def world(self) -> World:
        """The facts."""
        return World(
            self.seed,
            self.passages,
            split=self.split,
            relations=self.relations,
            namesakes=self.namesakes,
        )

    @cached_property
    def corpus(self) -> WorldPassages:
        """The passages, written when they are read."""
        return WorldPassages(self.world, phrasings=self.phrasings, sentences=self.sentences)

    @cached_property
    def retriever(self) -> BM25:
        """BM25 over the passages."""
        return BM25(self.corpus)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Search the passages, which are written and indexed when this is first called.

        Args:
            queries: Any texts.
            k: Most passages to return for a query, >= 1.

        Returns:
            For each query its passages, best first.
        """
        return self.retriever.search(queries, k)

    @cached_property
    def question_list(self) -> tuple[Question, ...]:
        """The questions, all different."""
        return generate_questions(
            self.world, self.questions, max_hops=self.max_hops, wordings=self.wordings
        )


PRESETS = MappingProxyType(
    {
        "demo": MiniWiki(
            passages=400, relations=8, max_hops=3, phrasings=2, sentences=0, results=2
        ),
        "standard": MiniWiki(),
        "hard": MiniWiki(passages=50_000, sentences=8, namesakes=8),
    }
)
"""Named settings of `MiniWiki.preset`."""
