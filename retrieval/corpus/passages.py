"""Passages in memory, and rows of a corpus as passages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from retrieval.corpus.jsonl import name_of, read_objects, text_of
from retrieval.errors import CorpusFormatError, CorpusNotFoundError, UnknownNameError
from retrieval.protocol import Passage, title_and_text

_EXPECTED = (
    r'{"id": "...", "contents": "\"Title\"\ntext"} or {"id": "...", "title": "...", "text": "..."}'
)


class CorpusHash:
    """SHA-256 of passages as they come: equal for equal corpora, whatever file they are in."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, passage: Passage) -> None:
        """Take in the next passage."""
        for text in (passage.id, passage.title, passage.text):
            data = text.encode("utf-8", "surrogatepass")
            self._digest.update(len(data).to_bytes(8, "little"))
            self._digest.update(data)

    def hexdigest(self) -> str:
        """Return the hash of the passages so far."""
        return self._digest.hexdigest()


def corpus_hash(passages: Iterable[Passage]) -> str:
    """Return the hash of passages; that of a `Corpus` is known already."""
    known = getattr(passages, "hash", None)
    if isinstance(known, str):
        return known
    digest = CorpusHash()
    for passage in passages:
        digest.add(passage)
    return digest.hexdigest()


class Passages(Sequence[Passage]):
    """An immutable, in-memory sequence of passages with unique ids.

    Args:
        passages: The passages, in corpus order.

    Raises:
        CorpusFormatError: If two passages share an id.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._items = tuple(passages)
        self._positions: dict[str, int] = {}
        for position, passage in enumerate(self._items):
            if self._positions.setdefault(passage.id, position) != position:
                raise CorpusFormatError(
                    f"passage {position}: expected a new id, found {passage.id!r} a second time"
                )

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Passages:
        """Read a corpus file, all of it or nothing.

        Args:
            path: File with one row of `passage_of` per line; it may be compressed (`.gz`).

        Returns:
            The passages in file order.

        Raises:
            CorpusNotFoundError: If there is no such file.
            CorpusFormatError: If a line is malformed or repeats an id, or there is none.
        """
        first_line: dict[str, int] = {}
        items = []
        for number, passage in read_passages(path):
            earlier = first_line.setdefault(passage.id, number)
            if earlier != number:
                raise CorpusFormatError(
                    f"{path}:{number}: expected a new id, found {passage.id!r} of line {earlier}"
                )
            items.append(passage)
        if not items:
            raise no_passages(path)
        return cls(items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Passage, ...]: ...
    def __getitem__(self, index: int | slice) -> Passage | tuple[Passage, ...]:
        return self._items[index]

    @cached_property
    def hash(self) -> str:
        """Hash of all ids, titles and texts in their order."""
        return corpus_hash(self._items)

    def find(self, passage_id: str) -> Passage:
        """Return the passage of an id.

        Raises:
            UnknownNameError: If there is none.
        """
        position = self._positions.get(passage_id)
        if position is None:
            raise UnknownNameError(f"expected the id of a passage, found {passage_id!r}")
        return self._items[position]


def no_passages(source: str | Path) -> CorpusFormatError:
    """Say that a corpus is empty, which a download that failed leaves more often than a wish."""
    return CorpusFormatError(
        f"{source}: expected at least one passage, found none; fetch the corpus again, or check "
        "the path"
    )


def read_passages(path: str | Path) -> Iterator[tuple[int, Passage]]:
    """Read a corpus file passage by passage.

    Args:
        path: File with one row of `passage_of` per line, plain or compressed (`.gz`).

    Yields:
        The line's number, counted from 1, and its passage.

    Raises:
        CorpusNotFoundError: If there is no such file.
        CorpusFormatError: If a line is malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusNotFoundError(f"expected a corpus file at {path}, found none; check the path")
    for number, record in read_objects(path, _EXPECTED, CorpusFormatError):
        yield number, passage_of(record, f"{path}:{number}")


def passage_of(record: Mapping[str, Any], where: str) -> Passage:
    r"""Read a passage from a row.

    Args:
        record: `id` and `contents` (`"Title"\ntext`, as in wiki-18), or `id`, `title` and
            `text`. A number names a passage as well as a text does.
        where: Name of the row for the error message.

    Returns:
        The passage, without the quotation marks around the title in `contents`.

    Raises:
        CorpusFormatError: If a field is missing or malformed.
    """
    passage_id = name_of(record.get("id"))
    if not passage_id:
        raise _malformed(where, "id", record)
    if record.get("contents") is not None or "title" not in record:
        contents = _text(record, "contents", where)
        if "\n" not in contents:
            fix = "write a title line and then the text in it"
            raise _malformed(where, "contents", record, fix)
        return Passage(passage_id, *title_and_text(contents))
    title, text = (_text(record, field, where) for field in ("title", "text"))
    if "\n" in title:
        raise _malformed(where, "title", record, "write it in one line")
    return Passage(passage_id, title, text)


def _text(record: Mapping[str, Any], field: str, where: str) -> str:
    text = text_of(record.get(field))
    if text is None:
        raise _malformed(where, field, record)
    return text


def _malformed(
    where: str, field: str, record: Mapping[str, Any], fix: str = "correct the row, or leave it out"
) -> CorpusFormatError:
    found = f"{where}: expected {_EXPECTED}, found {field} = {record.get(field)!r}"
    return CorpusFormatError(f"{found[:500]}; {fix}")
