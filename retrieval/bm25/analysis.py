"""Analyzers: how BM25 cuts a text into the terms that it counts."""

from __future__ import annotations

import re
from functools import lru_cache

import regex

from retrieval.bm25.porter import stem
from retrieval.text import to_nfc

VERSION = 2
"""Of the analyzers; part of the hash of an index, so that a change of theirs is noticed."""

STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with".split()
)
"""Words that are not indexed. Source: Lucene 9, `EnglishAnalyzer.ENGLISH_STOP_WORDS_SET`."""

_LONGEST_KNOWN = 32  # characters of a word whose term is remembered
_MAX_CHARACTERS = 255
"""Longer words are cut into pieces. Source: Lucene 9, `StandardAnalyzer`."""

# Source: bm25s 0.3 `tokenize(token_pattern=...)`, its default: words of two or more characters.
_WORD = re.compile(r"(?u)\b\w\w+\b")

# Source: Unicode Standard Annex 29, rules WB5 to WB13b, as Lucene's StandardTokenizer applies
# them: runs of letters, digits and Katakana, joined by certain punctuation between two letters or
# two digits; ideographs, Hiragana and emoji alone. Marks stay with the letter before them.
_JOINER = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"
_LETTER = rf"[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}\p{{Line_Break=SA}}]{_JOINER}"
_DIGIT = rf"\p{{WB=Numeric}}{_JOINER}"
_KATAKANA = rf"\p{{WB=Katakana}}{_JOINER}"
_CONNECTOR = rf"\p{{WB=ExtendNumLet}}{_JOINER}"
_MID_LETTER = rf"[\p{{WB=MidLetter}}:\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_JOINER}"
_MID_DIGIT = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_JOINER}"
_LETTERS = rf"{_LETTER}(?:(?:{_MID_LETTER})?+{_LETTER})*+"
_DIGITS = rf"{_DIGIT}(?:(?:{_MID_DIGIT})?+{_DIGIT})*+"
_MIXED = rf"(?:(?:{_CONNECTOR})*+(?:(?:{_LETTERS}|{_DIGITS})+|(?:{_KATAKANA})+))+(?:{_CONNECTOR})*+"
# Lucene 9 has the pictographs of Unicode 12; later versions count fewer symbols among them. Letters
# that came later are letters here and not there.
_PICTOGRAPH = (
    r"[\p{Extended_Pictographic}\u2388\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705"
    r"\u2708-\u2712\u2765-\u2767\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f"
    r"\U0001f16c-\U0001f16f\U0001f1ad\U0001f1ae\U0001f260-\U0001f265\U0001f300-\U0001f53d"
    r"\U0001f546-\U0001f64f\U0001f680-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff"
    r"\U0001f8b0-\U0001f8d8\U0001f90c-\U0001f93a\U0001f93c-\U0001f945\U0001f947-\U0001faff]"
)
# Connectors that join nothing are skipped as one: tried from each of them again, long runs would
# take time that grows with the square of their length.
_TOKEN = regex.compile(
    rf"{_MIXED}|(?:{_CONNECTOR})++(*SKIP)(*FAIL)|\p{{Script=Han}}{_JOINER}|\p{{Script=Hiragana}}{_JOINER}"
    rf"|{_PICTOGRAPH}(?:\p{{WB=Extend}}|\u200d{_PICTOGRAPH})*+"
    r"|\p{Regional_Indicator}{2}|[#*]\ufe0f?\u20e3"
)
# The same rules for texts of Latin letters and common punctuation, several times as fast.
_NOT_LATIN = re.compile("[^\x00-\xa8\xaa-\xac\xaf-\u024f\u2010-\u2023\u2025-\u2027]")
_LATIN = "[A-Za-zªµºÀ-ÖØ-öø-ɏ]+"
_LATIN_TOKEN = re.compile(
    rf"(?<!_)(?:_*(?:{_LATIN}(?:[:·.'‘’]{_LATIN})*|[0-9]+(?:[,;.'‘’][0-9]+)*)+)+_*"
)
_POSSESSIVES = ("'s", "'S", "’s", "’S", "＇s", "＇S")


def words(text: str) -> list[str]:
    """Cut a text as `bm25s` does by default: words of two or more characters, no stop words.

    Args:
        text: The text; composed first, which `bm25s` leaves to its users.

    Returns:
        Its words in lower case.
    """
    lowered = to_nfc(text).lower()
    return [word for word in _WORD.findall(lowered) if word not in STOP_WORDS]


def english(text: str) -> list[str]:
    """Cut a text as Lucene's English analyzer does: Unicode words, no possessives, stemmed.

    Args:
        text: The text; composed first, which Lucene leaves to its users.

    Returns:
        Its terms.
    """
    tokens = tokens_of(to_nfc(text))
    return [term for token in tokens if (term := _term(token)) is not None]


def tokens_of(text: str) -> list[str]:
    """Cut a text at the word boundaries of Unicode, as Lucene's StandardTokenizer does."""
    tokens: list[str] = (_TOKEN if _NOT_LATIN.search(text) else _LATIN_TOKEN).findall(text)
    if max(map(len, tokens), default=0) <= _MAX_CHARACTERS:
        return tokens
    return [
        token[start : start + _MAX_CHARACTERS]
        for token in tokens
        for start in range(0, len(token), _MAX_CHARACTERS)
    ]


def _term(token: str) -> str | None:
    # Kept by the thousand, long words that a client may invent would fill the memory.
    return _known_term(token) if len(token) <= _LONGEST_KNOWN else _english_term(token)


@lru_cache(maxsize=1 << 18)
def _known_term(token: str) -> str | None:
    return _english_term(token)


def _english_term(token: str) -> str | None:
    if token.endswith(_POSSESSIVES):
        token = token[:-2]
    # Lucene lowers one character at a time: a final sigma and a dotted I are like any other.
    term = token.lower() if token.isascii() else "".join(letter.lower()[0] for letter in token)
    return None if term in STOP_WORDS else stem(term)
