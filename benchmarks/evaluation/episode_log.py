"""The record of an evaluation: `episodes.jsonl`, which survives being cut off at any byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

from benchmarks.errors import EvaluationError
from benchmarks.evaluation.records import EPISODE, check, parsed
from retrieval.storage.files import whole_file

FILE = "episodes.jsonl"
Record = dict[str, Any]

_UNNEEDED = ("question", "golden_answers", "retrieval_recall")  # the last one may be null
_NEEDED = tuple(name for name in EPISODE.fields if name not in _UNNEEDED)


class EpisodeLog(Mapping[str, Record]):
    """Finished episodes by question key, in a file; only their places are kept in memory.

    Args:
        path: The file, made if missing, in a folder without another writer. A last line that was
            cut off is dropped.
        without_failures: Drop the episodes that failed, so that they are played again.

    Raises:
        EvaluationError: If a line is no record or repeats a question, or the file is a link or a
            pipe.
    """

    def __init__(self, path: Path, *, without_failures: bool = False) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        self._file = _opened(path)
        try:
            failed, end = self._read()
            self._file.truncate(end)
            if without_failures and failed:
                self._drop(failed)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """Return the keys of the questions whose episodes have ended."""
        return iter(self._places)

    def __getitem__(self, key: str) -> Record:
        """Read the record of a question's episode."""
        with self.path.open("rb") as file:
            file.seek(self._places[key])
            return _record(file.readline(), f"{self.path}: byte {self._places[key]}")

    def __setitem__(self, key: str, record: Record) -> None:
        """Add an ended episode; it is in the file when this returns."""
        self._places[key] = self._file.seek(0, os.SEEK_END)
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Close the file for writing; records can still be read."""
        self._file.close()

    def _read(self) -> tuple[set[str], int]:
        """Note where the records begin; return the keys of failed ones, and the good bytes."""
        failed, end = set(), 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # cut off while it was written
                record = _record(line, f"{self.path}:{number}")
                key = record["question_key"]
                if key in self._places:
                    raise EvaluationError(
                        f"{self.path}:{number}: expected a new question, found {key} again; choose "
                        "another folder"
                    )
                self._places[key] = end
                failed |= {key} if record["error"] else set()
                end += len(line)
        return failed, end

    def _drop(self, keys: set[str]) -> None:
        """Write the file again without some records, in one step."""
        places: dict[str, int] = {}
        with self.path.open("rb") as old, whole_file(self.path) as new:
            for key, place in self._places.items():
                if key not in keys:
                    old.seek(place)
                    places[key] = new.tell()
                    new.write(old.readline())
        self._file.close()
        self._file, self._places = self.path.open("ab"), places


class Episodes(Sequence[Record]):
    """The records of an evaluation in the order of its questions, read when they are asked for.

    Args:
        log: The records by question key.
        keys: Keys of the questions.
    """

    def __init__(self, log: Mapping[str, Record], keys: Sequence[str]) -> None:
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
            return [self._log[key] for key in self._keys[index]]
        return self._log[self._keys[index]]


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
