"""Transcripts as the messages of a chat completion, and its reply as a turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def request_messages(transcript: Sequence[str]) -> list[Message]:
    """Return the messages of an episode so far.

    Args:
        transcript: Observation, action, observation, … Plain observations become messages of role
            `user`. Where the dialect speaks in chat messages, those are sent, and the calls in a
            turn become the assistant's `tool_calls`; if they are malformed, all of it stays text.

    Returns:
        Messages, each with `role` and `content`.
    """
    first = transcript[0]
    given = getattr(first, "messages", None) or ({"role": "user", "content": str(first)},)
    messages = [dict(message) for message in given]
    for i in range(1, len(transcript), 2):
        action, observation = transcript[i], transcript[i + 1]
        results = [dict(each) for each in getattr(observation, "messages", ())]
        content, calls = _calls(action, f"call_{i // 2}")
        if calls and len(calls) == len(results) and all(r["role"] == "tool" for r in results):
            messages.append({"role": "assistant", "content": content, "tool_calls": calls})
            messages += [
                {**result, "tool_call_id": call["id"]}
                for result, call in zip(results, calls, strict=True)
            ]
        else:
            messages.append({"role": "assistant", "content": str(action)})
            messages.append({"role": "user", "content": str(observation)})
    return messages


def turn_text(choice: Mapping[str, Any], stop: Sequence[str]) -> str:
    """Return what a choice of a chat completion says, as the turn that the environment reads.

    Endpoints leave out the stop string that ended the turn, and most do not say which it was. It is
    put back: the one named (`stop_reason`, vLLM), or else the closing tag of the tag that was
    opened last. What follows a stop string, from an endpoint that ignores them, is dropped.

    Args:
        choice: With `message` and `finish_reason`.
        stop: Strings at which the turn was to end, closing tags.

    Returns:
        The text; calls of tools are written as `<tool_call>` JSON.

    Raises:
        KeyError: If a part is missing.
        TypeError: If a part is of another type.
    """
    message = choice["message"]
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise TypeError(f"expected a text as content, found {type(text).__name__}")
    for call in message.get("tool_calls") or ():
        function = call["function"]
        name, arguments = json.dumps(function["name"]), function["arguments"] or "{}"
        text += f'\n<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    ends = [text.index(mark) + len(mark) for mark in stop if mark in text]
    if ends:
        return text[: min(ends)]
    if choice.get("finish_reason") != "stop":
        return text
    named = choice.get("stop_reason")
    if named in stop:
        return f"{text}{named}"
    opened = [(text.rfind(mark.replace("</", "<", 1)), mark) for mark in stop if "</" in mark]
    place, mark = max(opened, default=(-1, ""))
    return text + mark if place >= 0 else text


def _calls(action: str, name: str) -> tuple[str, list[Message]]:
    """The text before the calls of a turn, and the calls; none if one is not as it should be."""
    calls = []
    for number, content in enumerate(_CALL.findall(action)):
        try:
            call = json.loads(content)
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        except (ValueError, TypeError, KeyError, RecursionError):
            return str(action), []
        calls.append({"id": f"{name}_{number}", "type": "function", "function": function})
    return action.partition("<tool_call>")[0].strip(), calls
