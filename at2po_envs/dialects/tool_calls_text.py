"""Where the thoughts and the calls of a turn with `<tool_call>` JSON begin and end."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from at2po_envs.dialects.arguments import decode_json
from at2po_envs.dialects.tags import enclosed

MAX_CALLS = 64
"""Most calls that are read in a turn."""

_CALL_TAG = re.compile(r"</?tool_call>")
_OTHER_TAG = re.compile(r"</?think>|<answer>")
_INK = re.compile(r"\S")
_CLOSING = re.compile(r"\s*</tool_call>")


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call as it is written.

    Attributes:
        start: Where its opening tag begins.
        end: Where what belongs to it ends.
        content: What its JSON says.
        problem: Why it cannot be read, empty if it can.
    """

    start: int
    end: int
    content: Any = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TurnText:
    """A turn taken apart.

    Attributes:
        calls: The calls outside thoughts, in order.
        said: What stands behind the last thought that ends, calls included.
        thinks_well: Whether there is one thought at most, at the beginning, and it ends.
    """

    calls: tuple[WrittenCall, ...]
    said: str
    thinks_well: bool


def take_apart(text: str) -> TurnText:
    """Find the thoughts and calls of a turn, in time linear in its length.

    A thought ends at the first `</think>` that follows; its opening tag may be missing at the
    start of the turn, as some chat templates write it into the prompt. Tags in the JSON of a call
    are text, and so are those of calls in a thought or in an answer that mentions them.

    Args:
        text: The agent's own text of a turn.
    """
    calls = _calls(text)
    spans = [(call.start, call.end) for call in calls]
    tags = [tag for tag in _OTHER_TAG.finditer(text) if not _within(tag.start(), spans)]
    thoughts, unended, well = _thoughts(text, tags)
    begin = thoughts[-1][1] if thoughts else 0
    said = text[begin:unended]
    hidden = thoughts if unended is None else [*thoughts, (unended, len(text))]
    answers = [
        (begin + start, begin + start + len(answer)) for start, answer in enclosed(said, "answer")
    ]
    outside = (
        call
        for call in calls
        if not _within(call.start, hidden) and not (call.problem and _within(call.start, answers))
    )
    return TurnText(tuple(outside), said, well)


def _calls(text: str) -> list[WrittenCall]:
    """All calls, those in thoughts included; none begins within another."""
    calls: list[WrittenCall] = []
    tag = _CALL_TAG.search(text)
    while tag is not None:
        position = tag.end()
        if tag.group() == "<tool_call>":
            if len(calls) == MAX_CALLS:
                problem = f"a turn may hold at most {MAX_CALLS} calls"
                return [*calls, WrittenCall(len(text), len(text), problem=problem)]
            calls.append(_call(text, tag))
            position = calls[-1].end
        tag = _CALL_TAG.search(text, position)
    return calls


def _call(text: str, tag: re.Match[str]) -> WrittenCall:
    """Read a call from its opening tag on; its JSON decides where it ends."""
    try:
        content, end = decode_json(text, _begins(text, tag.end()))
    except ValueError as error:
        following = _CALL_TAG.search(text, tag.end())
        if following is None or following.group() == "<tool_call>":
            problem = "<tool_call> is never closed"
            return WrittenCall(tag.start(), tag.end(), problem=problem)
        problem = f"what stands in <tool_call> is not JSON: {error}"
        return WrittenCall(tag.start(), following.end(), problem=problem)
    closing = _CLOSING.match(text, end)
    if closing is None:
        problem = "its JSON is not followed by </tool_call>"
        return WrittenCall(tag.start(), end, problem=problem)
    return WrittenCall(tag.start(), closing.end(), content)


def _begins(text: str, position: int) -> int:
    ink = _INK.search(text, position)
    return ink.start() if ink else len(text)


def _thoughts(
    text: str, tags: Sequence[re.Match[str]]
) -> tuple[list[tuple[int, int]], int | None, bool]:
    """Find the thoughts of a turn.

    Args:
        text: The turn.
        tags: The tags outside calls.

    Returns:
        Where each thought that ends begins and ends, where one that does not end begins (None if
        all do), and whether they are as they should be.
    """
    thoughts: list[tuple[int, int]] = []
    begin: int | None = None
    answering, stray = False, False
    for tag in tags:
        if tag.group() == "<answer>":
            answering = answering or begin is None
        elif tag.group() == "<think>":
            # In a thought, and in an answer, it is a mention.
            begin = tag.start() if begin is None and not answering else begin
        elif begin is None and thoughts:
            stray = stray or not answering
        else:
            # Without an opening tag, all so far was the thought.
            thoughts.append((begin or 0, tag.end()))
            begin, answering = None, False
    well = begin is None and len(thoughts) <= 1 and not stray
    if thoughts:
        well = well and not text[: thoughts[0][0]].strip()
    return thoughts, begin, well


def _within(position: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a position lies in one of the spans, which are in order and do not overlap."""
    number = bisect_right(spans, position, key=lambda span: span[0]) - 1
    return number >= 0 and position < spans[number][1]
