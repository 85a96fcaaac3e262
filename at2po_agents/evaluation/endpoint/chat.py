"""Transcripts as the messages of a chat completion."""

from __future__ import annotations

import json
from collections.abc import Sequence

from at2po_envs.dialects.messages import messages_of
from at2po_envs.dialects.tool_calls_text import take_apart

Message = dict[str, object]


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
    given = messages_of(first) or ({"role": "user", "content": str(first)},)
    messages: list[Message] = [dict(message) for message in given]
    for i in range(1, len(transcript), 2):
        action, observation = transcript[i], transcript[i + 1]
        results = [dict(each) for each in messages_of(observation)]
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


def _calls(action: str, name: str) -> tuple[str, list[Message]]:
    """The text before the calls of a turn, and the calls; none if one is not as it should be."""
    calls: list[Message] = []
    written = take_apart(action).calls
    for number, call in enumerate(written):
        try:
            asked = call.content["name"], json.dumps(call.content["arguments"])
        except (TypeError, KeyError):
            return str(action), []
        function = {"name": asked[0], "arguments": asked[1]}
        calls.append({"id": f"{name}_{number}", "type": "function", "function": function})
    return action[: written[0].start].strip() if written else str(action), calls
