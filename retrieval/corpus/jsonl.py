"""Rows of text as data sets hold them, read in one way whatever file or library they come from."""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

from retrieval.text import to_unicode


def read_objects(
    path: Path, expected: str, error: type[ValueError]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every line of a UTF-8 JSON-lines file that is not blank.

    Args:
        path: The file; one whose name ends in `.gz` is decompressed.
        expected: What a line should look like, for the error message.
        error: Class of the error to raise.

    Yields:
        The line's number, counted from 1, and its JSON object.

    Raises:
        ValueError: As `error`, if a line is not UTF-8 text holding one JSON object, or the
            compressed file is incomplete or corrupt.
    """
    for number, line in read_lines(path, error):
        yield number, object_of(line, f"{path}:{number}", expected, error)


def read_lines(path: Path, error: type[ValueError]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line) for every line of a file that is not blank.

    Args:
        path: The file; one whose name ends in `.gz` is decompressed. A byte order mark at its
            beginning, which editors on Windows write, is left out.
        error: Class of the error to raise.

    Raises:
        ValueError: As `error`, if the compressed file is incomplete or corrupt.
    """
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(BOM_UTF8) if number == 1 else line
                if text.strip():
                    yield number, text
        except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
            raise error(
                f"{path}: expected a whole gzip file, found after line {number}: {problem}; "
                "fetch it again"
            ) from None


def object_of(line: bytes, where: str, expected: str, error: type[ValueError]) -> dict[str, Any]:
    r"""Read one line of a JSON-lines file.

    Args:
        line: The line.
        where: File and line, for the error message.
        expected: What a line should look like, for the error message.
        error: Class of the error to raise.

    Returns:
        Its JSON object. Escapes can write lone surrogates (`\ud83d`), which no file and no
        tokenizer can hold; they become U+FFFD.

    Raises:
        ValueError: As `error`, if the line is not UTF-8 text holding one JSON object.
    """
    try:
        record = _DECODER.decode(line.decode("utf-8"))
        if b"\\ud" in line or b"\\uD" in line:
            record = _sound(record)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: expected {expected}, found {problem}; correct the line") from None
    if not isinstance(record, dict):
        found = type(record).__name__
        raise error(f"{where}: expected {expected}, found a JSON {found}; one object a line")
    return record


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; readers differ in which of two with one name counts."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r:.80} twice in an object")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_named_once)


def name_of(value: Any) -> str | None:
    """Return the text that a cell names something by.

    Args:
        value: A cell of a row. Data sets often number their rows, and a number names a row as well
            as a text does.

    Returns:
        The text, None if the cell holds none.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    return text_of(value)


def text_of(value: Any) -> str | None:
    """Return the text that a cell holds, as str or as UTF-8; None if it holds none."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return to_unicode(value) if isinstance(value, str) else None


def _sound(value: Any) -> Any:
    """The same JSON value without lone surrogates."""
    if isinstance(value, str):
        return to_unicode(value)
    if isinstance(value, list):
        return [_sound(each) for each in value]
    if isinstance(value, dict):
        return {to_unicode(name): _sound(each) for name, each in value.items()}
    return value
