"""Reading JSON-lines files, plain or compressed, so that a bad line is reported by its number."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_objects(
    path: Path, expected: str, error: type[ValueError]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every line of a UTF-8 JSON-lines file.

    Args:
        path: The file; one whose name ends in ``.gz`` is decompressed.
        expected: What a line should look like, for the error message.
        error: Class of the error to raise.

    Yields:
        The line's number, counted from 1, and its JSON object.

    Raises:
        ValueError: As ``error``, if a line is not UTF-8 text holding one JSON object, or the
            compressed file is torn.
    """
    for number, line in _lines(path, error):
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as problem:
            raise error(f"{path}:{number}: expected {expected}, found {problem}") from None
        if not isinstance(record, dict):
            found = type(record).__name__
            raise error(f"{path}:{number}: expected {expected}, found a JSON {found}")
        yield number, record


def _lines(path: Path, error: type[ValueError]) -> Iterator[tuple[int, bytes]]:
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
            raise error(
                f"{path}: expected a whole gzip file, found after line {number}: {problem}; "
                "fetch it again"
            ) from None
