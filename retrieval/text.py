"""How foreign text meets tokenizers, files, indexes and terminals: a function for each meeting."""

from __future__ import annotations

import re
import unicodedata

import regex

# Unicode's stream-safe format allows as many non-starters in a row; normalising longer runs takes
# time that grows with the square of their length.
# Source: UAX #15, section 13 (Stream-Safe Text Format).
_LONGEST_RUN = regex.compile(r"\P{ccc=0}{30}")
_SURROGATES = re.compile("[\ud800-\udfff]")
# All controls but line feed and tab; line and paragraph separators and the marks that turn the
# direction of writing, which can make a terminal show what was not written.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def to_unicode(text: str) -> str:
    """Return the text with U+FFFD for every lone surrogate, which no UTF-8 and no tokenizer has.

    Args:
        text: Any text; JSON and models can write surrogates.

    Returns:
        A text that can be encoded; the same object if the given one can.
    """
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def to_nfc(text: str) -> str:
    """Compose a text in time linear in its length.

    Args:
        text: Any text.

    Returns:
        Its normal form C. Runs of more than 30 combining marks, which no language has, are composed
        30 at a time.
    """
    if text.isascii():
        return text
    pieces, start = [], 0
    for run in _LONGEST_RUN.finditer(text):
        pieces.append(unicodedata.normalize("NFC", text[start : run.end()]))
        start = run.end()
    pieces.append(unicodedata.normalize("NFC", text[start:]))
    return "".join(pieces)


def to_query(text: str) -> str:
    """Return the one form of all queries that differ in white space and composition only.

    Args:
        text: Any text.

    Returns:
        The text in normal form C, with single spaces between words and none around them.
    """
    return " ".join(to_nfc(text).split())


def to_terminal(text: str, encoding: str | None = "utf-8") -> str:
    r"""Return a text that a terminal shows and does not obey.

    Args:
        text: Any text, such as a question or a model's turn.
        encoding: Of the terminal or the file behind it; None counts as ASCII.

    Returns:
        The text with escapes such as `\x1b` for control characters, for marks that turn the
        direction of writing, and for what the encoding cannot hold. Line feeds and tabs stay.
    """
    escape = lambda found: found.group().encode("unicode_escape").decode()  # noqa: E731
    encoding = encoding or "ascii"
    return _CONTROLS.sub(escape, text).encode(encoding, "backslashreplace").decode(encoding)
