r"""Answers in a `\boxed{}`."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\boxed")


def extract_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed` of a text holds, None if there is none or it never closes.

    White space may stand before the brace. Without a brace, everything up to the first `$`
    counts; a `\boxed` that is followed by nothing but punctuation holds nothing and is passed
    over (`released_boxed` takes it for an empty answer, or for no answer).

    Args:
        text: Any text.
    """
    end = len(text)
    for start in reversed([found.end() for found in _BOX.finditer(text)]):
        rest = text[start:end].partition("$")[0]
        if text[start:end].lstrip().startswith("{"):
            return _braced(text[start:].lstrip())
        if rest[:1].isspace() and any(map(str.isalnum, rest)):
            return rest[1:]
        end = start - len("\\boxed")
    return None


def released_boxed(text: str) -> str | None:
    r"""Return what AT²PO's released scorer takes for the boxed answer, None if there is none.

    Where `\boxed` is followed by a space, everything behind its last such use counts, up to the
    first `$`; else the last `\boxed` has to be followed by a brace that closes.

    Args:
        text: Any text.

    Source: `last_boxed_only_string` and `remove_boxed` in
    ATPO/verl_atpo/verl/utils/reward_score/deep_research_em.py of github.com/zzfoutofspace/ATPO at
    98e60f6.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    _, box, rest = text.rpartition("\\boxed")
    return _braced(rest) if box and rest.startswith("{") else None


def _braced(text: str) -> str | None:
    """What stands in the brace that a text starts with, None if it never closes."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[1:position]
    return None
