"""Foreign text where it meets tokenizers, files, indexes and terminals."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.text import to_nfc, to_terminal, to_unicode

ANY = st.text(st.characters(codec=None))


@given(ANY)
def test_every_text_can_be_written_as_utf_8(text: str) -> None:
    cleaned = to_unicode(text)
    cleaned.encode("utf-8")
    assert len(cleaned) == len(text)
    assert all(a == b or b == "\ufffd" for a, b in zip(text, cleaned, strict=True))


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert to_unicode("\ud83d Jaws") == "\ufffd Jaws"
    assert to_unicode("\U0001f988") == "\U0001f988"


@given(ANY)
def test_normal_form_c_is_unicodes(text: str) -> None:
    assert to_nfc(text) == unicodedata.normalize("NFC", text)


def test_runs_of_marks_are_composed_piece_by_piece() -> None:
    marks = "\u0301\u0323" * 2_000_000
    composed = to_nfc("a" + marks)  # by the library alone this takes more than a day
    assert composed.startswith("\u1ea1\u0323")
    assert len(composed) == len(marks)


@given(ANY)
def test_terminals_get_nothing_to_obey(text: str) -> None:
    shown = to_terminal(text)
    assert not any(
        unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t" for each in shown
    )


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("a\x1b[2Jb", "utf-8", r"a\x1b[2Jb"),
        ("\x9b31m", "utf-8", r"\x9b31m"),
        ("é", "ascii", r"\xe9"),
        ("é", None, r"\xe9"),
        ("\ud83d", "utf-8", r"\ud83d"),
        ("abc\u202edef", "utf-8", r"abc\u202edef"),
        ("line\n\tnext", "ascii", "line\n\tnext"),
    ],
)
def test_what_a_terminal_shows(text: str, encoding: str | None, shown: str) -> None:
    assert to_terminal(text, encoding) == shown
