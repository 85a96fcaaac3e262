"""What a retriever is: text queries in, ranked passages of a corpus out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol, overload

from retrieval.errors import SearchArgumentError


@dataclass(frozen=True, slots=True)
class Passage:
    """A titled piece of text, with its score when it is the result of a search.

    Attributes:
        id: Name of the passage, unique in its corpus.
        title: Title of the page, without the quotation marks around it.
        text: Text below the title.
        score: Relevance to the query that found it (higher is better); 0 outside a search.
    """

    id: str
    title: str
    text: str
    score: float = 0.0

    @property
    def contents(self) -> str:
        r"""Title and text in the wiki-18 form `"Title"\ntext`."""
        return f'"{self.title}"\n{self.text}'

    def scored(self, score: float) -> Passage:
        """Return the passage as the result of a search."""
        return Passage(self.id, self.title, self.text, score)


def title_and_text(contents: str) -> tuple[str, str]:
    """Split a passage in the wiki-18 form; without a title line its title is empty."""
    title, newline, text = contents.partition("\n")
    if not newline:
        return "", contents
    quoted = len(title) >= 2 and title[0] == title[-1] == '"'
    return title[1:-1] if quoted else title, text


def require_k(k: int) -> None:
    """Refuse a number of passages that cannot be searched for.

    Args:
        k: Most passages to return for a query.

    Raises:
        SearchArgumentError: If it is no whole number >= 1.
    """
    if type(k) is not int and (k is True or not isinstance(k, Integral)) or k < 1:
        raise SearchArgumentError(f"expected k >= 1, found {k!r}")


class Retriever(Protocol):
    """Anything that ranks passages for text queries."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return, for each query, at most `k` passages, the best first."""
        ...


class Corpus(Protocol):
    """A sequence of passages that also knows them by id: in memory or on disk."""

    @property
    def hash(self) -> str:
        """Hash of all ids, titles and texts in their order."""
        ...

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Passage]: ...
    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Passage]: ...

    def find(self, passage_id: str) -> Passage:
        """Return the passage of an id."""
        ...
