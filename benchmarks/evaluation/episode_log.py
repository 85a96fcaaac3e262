"""The record of an evaluation: `episodes.jsonl`, which survives being cut off at any byte."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

from benchmarks.errors import EvaluationError
from benchmarks.evaluation.records import EPISODE, check, parsed
from retrieval.storage.files import whole_file

FILE = "episodes.jsonl"
Record = dict[str, Any]

_UNNEEDED = ("question", "golden_answers", "retrieval_recall")  # the last one may be null
_NEEDED = tuple(name for name in EPISODE.fields if name not in _UNNEEDED)


class EpisodeLog:
    """Finished episodes by question key; in a file, only their places are kept in memory.

    Args:
        path: The file, made if missing, in a folder that nobody else writes to; None keeps the
            records in memory. A last line that was cut off is dropped.
        without_failures: Drop the episodes that failed, so that they are played again.

    Raises:
        EvaluationError: If a line is no record or repeats a question, or the file is a link or a
            pipe.
    """

    def __init__(self, path: Path | None, *, without_failures: bool = False) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        self._kept: dict[str, Record] = {}
        self._file = None if path is None else _opened(path)
        if self._file is None or path is None:
            return
        try:
            failed, end = self._read(path)
            self._file.truncate(end)
            if without_failures and failed:
                self._drop(path, failed)
        except BaseException:
            self._file.close()
            raise

    def __contains__(self, key: object) -> bool:
        """Return whether the episode of a question has ended."""
        return key in self._places or key in self._kept

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._places) + len(self._kept)

    def __getitem__(self, key: str) -> Record:
        """Return the record of a question's episode."""
        return next(self.records([key]))

    def keys(self) -> Collection[str]:
        """Return the keys of the questions whose episodes have ended."""
        return self._places.keys() or self._kept.keys()

    def records(self, keys: Sequence[str]) -> Iterator[Record]:
        """Read the records of some questions, one at a time."""
        if self.path is None:
            yield from (self._kept[key] for key in keys)
            return
        with self.path.open("rb") as file:
            for key in keys:
                file.seek(self._places[key])
                yield _record(file.readline(), f"{self.path}: byte {self._places[key]}")

    def append(self, record: Record) -> None:
        """Add an ended episode; it is in the file when this returns."""
        key = record["question_key"]
        if self._file is None:
            self._kept[key] = record
            return
        self._places[key] = self._file.seek(0, os.SEEK_END)
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Close the file for writing; records can still be read."""
        if self._file is not None:
            self._file.close()

    def _read(self, path: Path) -> tuple[set[str], int]:
        """Note where the records begin; return the keys of failed ones, and the good bytes."""
        failed, end = set(), 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # cut off while it was written
                record = _record(line, f"{path}:{number}")
                key = record["question_key"]
                if key in self._places:
                    raise EvaluationError(
                        f"{path}:{number}: expected a new question, found {key} again; choose "
                        "another folder"
                    )
                self._places[key] = end
                failed |= {key} if record["error"] else set()
                end += len(line)
        return failed, end

    def _drop(self, path: Path, keys: set[str]) -> None:
        """Write the file again without some records, in one step."""
        places: dict[str, int] = {}
        with path.open("rb") as old, whole_file(path) as new:
            for key, place in self._places.items():
                if key not in keys:
                    old.seek(place)
                    places[key] = new.tell()
                    new.write(old.readline())
        if self._file is not None:
            self._file.close()
        self._file, self._places = path.open("ab"), places


class Episodes(Sequence[Record]):
    """The records of an evaluation in the order of its questions, read when they are asked for.

    Args:
        log: Where they are.
        keys: Keys of the questions.
    """

    def __init__(self, log: EpisodeLog, keys: Sequence[str]) -> None:
        self._log, self._keys = log, keys

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Return the record of one question, or of several."""
        if isinstance(index, slice):
            return list(self._log.records(self._keys[index]))
        return self._log[self._keys[index]]

    def __iter__(self) -> Iterator[Record]:
        """Read one record after the other."""
        return self._log.records(self._keys)


def _opened(path: Path) -> BinaryIO:
    """Open the file for writing at its end; a link leads to what may be somebody else's."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise EvaluationError(
            f"{path}: expected a file of this evaluation, found a link, a folder or a pipe; choose "
            "another folder"
        )
    return path.open("ab")


def _line(record: Record) -> bytes:
    # Lone surrogates, which a model may write, have no UTF-8 form; escaped they have.
    text = json.dumps(record, ensure_ascii=False)
    try:
        return (text + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(record) + "\n").encode("ascii")


def _record(line: bytes, where: str) -> Record:
    record = parsed(line, where, EvaluationError, EPISODE.name)
    check(EPISODE, record, _NEEDED, where, EvaluationError)
    return record
