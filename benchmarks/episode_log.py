"""The record of an evaluation: `episodes.jsonl`, which survives being cut off at any byte."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from benchmarks.errors import EvaluationError

FILE = "episodes.jsonl"
Record = dict[str, Any]


class EpisodeLog:
    """Finished episodes by question key; in a file, only their places are kept in memory.

    Args:
        path: The file, made if missing; None keeps the records in memory. A last line that was cut
            off is dropped.
        without_failures: Drop the episodes that failed, so that they are played again.

    Raises:
        EvaluationError: If a line is no record or repeats a question, or another process writes.
    """

    def __init__(self, path: Path | None, *, without_failures: bool = False) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        self._kept: dict[str, Record] = {}
        self._file = None if path is None else path.open("ab")
        if self._file is None or path is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise EvaluationError(
                f"{path}: expected to be the only one to write it, found another process that "
                "does; wait for it, or choose another folder"
            ) from None
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
        if self.path is None:
            return self._kept[key]
        with self.path.open("rb") as file:
            file.seek(self._places[key])
            return json.loads(file.readline())  # type: ignore[no-any-return]

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
                yield json.loads(file.readline())

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

    def _read(self, path: Path) -> tuple[list[str], int]:
        """Note where the records begin; return the keys of failed ones, and the good bytes."""
        failed, end = [], 0
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
                failed += [key] if record["error"] else []
                end += len(line)
        return failed, end

    def _drop(self, path: Path, keys: Sequence[str]) -> None:
        """Write the file anew without some records, in one step."""
        left = [key for key in self._places if key not in set(keys)]
        draft = path.with_suffix(".tmp")
        with draft.open("wb") as file:
            places = {}
            for record in self.records(left):
                places[record["question_key"]] = file.tell()
                file.write(_line(record))
        # The lock stays with the old file; a new one is taken before it gets the name.
        new = draft.open("ab")
        fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(draft, path)
        if self._file is not None:
            self._file.close()
        self._file, self._places = new, places


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


def write_whole(path: Path, text: str) -> None:
    """Put a text into a file in one step: killed in between, the file is as it was."""
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def as_json(value: Mapping[str, Any]) -> str:
    """Write what goes into a file of its own as JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _line(record: Record) -> bytes:
    # Lone surrogates, which a model may write, have no UTF-8 form; escaped they have.
    text = json.dumps(record, ensure_ascii=False)
    try:
        return (text + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(record) + "\n").encode("ascii")


def _record(line: bytes, where: str) -> Record:
    try:
        record = json.loads(line)
        record["question_key"] + record["error"]
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{where}: expected the record of an episode, found {line[:80]!r}; restore the file, "
            "or choose another folder"
        ) from error
    return record  # type: ignore[no-any-return]
