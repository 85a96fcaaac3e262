"""What an endpoint replied, in all the spellings that servers of chat completions have for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from at2po_agents.errors import EndpointError
from at2po_agents.rollout.agents import Reply

Json = Mapping[str, object]

_LENGTH = ("length", "max_tokens", "model_length", "model_context_window_exceeded")
_STOPPED = ("stop", "stop_sequence")
_BROKEN_OFF = ("abort", "cancelled", "error")
_FILTERED = ("content_filter", "safety")
"""Spellings of `finish_reason`: OpenAI's, vLLM's and SGLang's `abort`, TGI's `eos_token` and
`stop_sequence`, Mistral's `model_length`, Anthropic's `end_turn` and `max_tokens`. Whatever is
not among them ended the turn by itself."""

_STOP_FIELDS = ("stop_reason", "matched_stop", "stop_sequence", "stopping_word")
"""Where servers say which stop string, or token, ended a turn: vLLM, SGLang, Anthropic, llama.cpp;
null or a token's number where it was none of the strings."""

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Where they put thoughts: SGLang, llama.cpp and older vLLM; vLLM and OpenRouter; Ollama."""

_PART = ("thinking", "reasoning")
"""Types of parts of a content that are thoughts."""

_MOST_TOKENS = 10**9  # of a turn that anybody would believe

_FULL_CODES = ("context_length_exceeded", "exceed_context_size_error")  # OpenAI; llama.cpp
_FULL = re.compile(
    r"maximum context length"  # OpenAI, vLLM, SGLang, DeepSeek, Mistral
    r"|maximum prompt length is"  # xAI
    r"|longer than the (?:model's context length|maximum model length)"  # SGLang; vLLM
    r"|model's context length is only"  # vLLM
    r"|max_tokens must be at least 1, got -"  # vLLM: what is left for the turn
    # llama.cpp and its Python server, Ollama, Anthropic, OpenAI
    r"|exceeds? (?:the )?(?:model's )?(?:available |maximum )?context (?:size|length|window|limit)"
    r"|exceeds the maximum (?:allowed length|number of tokens allowed)"  # SGLang; Gemini
    r"|`inputs` (?:tokens \+ `max_new_tokens` must be <=|must have less than)"  # TGI
    r"|greater than the context length|when context the overflows|>= n_ctx"  # LM Studio
    r"|prompt is too long|ContextWindowExceeded",  # Anthropic; LiteLLM
    re.IGNORECASE,
)


class ContextFullError(EndpointError):
    """The conversation is longer than the model can read."""


def read_completion(reply: object, stop: Sequence[str]) -> Reply:
    """Read a chat completion.

    Args:
        reply: The JSON of the reply.
        stop: Strings at which the turn was to end, closing tags.

    Returns:
        The turn: thoughts in `<think>`, content, and calls of tools as `<tool_call>` JSON; without
        its cost.

    Raises:
        LookupError: If a part is missing.
        TypeError: If a part is of another type.
        ValueError: If the endpoint broke the turn off.
        EndpointError: If it filtered the turn: it would do so again.
    """
    body = cast(Mapping[str, Sequence[Json]], reply)
    choice = body["choices"][0]
    finish = str(choice.get("finish_reason") or "stop").lower()
    if finish in _BROKEN_OFF:
        raise ValueError(f"expected a whole turn, found that it was broken off: {finish}")
    if finish in _FILTERED:
        raise EndpointError(f"expected a turn, found that the endpoint filtered it: {finish}")
    usage = body.get("usage")
    counts: Json = usage if isinstance(usage, Mapping) else {}
    return Reply(
        _turn(choice, finish, stop),
        tokens=_count(counts.get("completion_tokens")),
        truncated=finish in _LENGTH,
        prompt_tokens=_count(counts.get("prompt_tokens")),
    )


def error_of(reply: object) -> tuple[int, str] | None:
    """Return status and text of an error that came with status 200, as gateways send it.

    Args:
        reply: The JSON of the reply.

    Returns:
        The error's own code where it is a status of HTTP, else 500, and the error as JSON; None
        where there is no error.
    """
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else reply
    error = first.get("error") if isinstance(first, Mapping) else None
    if not error:
        return None
    code = error.get("code") if isinstance(error, Mapping) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return status, json.dumps({"error": error})


def says_context_is_full(text: str) -> bool:
    """Return whether an error says that the conversation is longer than the model can read.

    Args:
        text: Body of the error. Only its own fields are looked at, not what it repeats of the
            request in others.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    return any(
        isinstance(each, str) and (each in _FULL_CODES or _FULL.search(each[:2000]))
        for each in _said(body)
    )


def _said(body: object) -> Iterator[object]:
    """The code, type and message of an error, wherever servers and gateways put them."""
    parts = [body]
    if isinstance(body, Mapping):
        parts.append(body.get("error"))
        if isinstance(parts[1], Mapping):
            parts.append(parts[1].get("metadata"))  # OpenRouter: the error behind it
    for part in parts:
        if isinstance(part, Mapping):
            yield from (part.get(name) for name in ("code", "type", "message", "detail", "raw"))
        else:
            yield part


def _turn(choice: Json, finish: str, stop: Sequence[str]) -> str:
    """Put a turn together as the model wrote it.

    Endpoints leave out the stop string that ended the turn. It is put back where they name it, or
    do not say whether there was one while a tag is open behind the thoughts. What follows a stop
    string, from an endpoint that ignores them, is dropped.
    """
    message = cast(Json, choice["message"])
    content, thoughts = _content(message.get("content") or message.get("refusal"))
    said = content + "".join(map(_call, _calls(message)))
    named = _named(choice, stop)
    begin = _thoughts_end(said)
    ends = [place + len(mark) for mark in stop if (place := said.find(mark, begin)) >= 0]
    if ends:
        said, named = said[: min(ends)], ""
    text = _with_thoughts(
        _thoughts(message) or thoughts, said, ended=not (named or finish in _LENGTH)
    )
    if named is None and finish in _STOPPED:
        named = _open(text, stop)
    return text if finish in _LENGTH else text + (named or "")


def _thoughts_end(said: str) -> int:
    """Where the thoughts end that a content begins with; tags in them are mentions."""
    before, closing, _ = said.partition("</think>")
    opened = before.find("<think>")
    thinks = closing and (opened < 0 or not before[:opened].strip())
    return len(before) + len(closing) if thinks else 0


def _with_thoughts(thoughts: str, said: str, *, ended: bool) -> str:
    """Put thoughts before what is said, unless a server left them there, too."""
    if not thoughts or "</think>" in said or said.lstrip().startswith("<think>"):
        return said
    closing = f"\n</think>\n\n{said.lstrip()}" if said.strip() or ended else ""
    return f"<think>\n{thoughts.strip()}{closing}"


def _named(choice: Json, stop: Sequence[str]) -> str | None:
    """The stop string that ended a turn, "" if it was none of them, None if no field says."""
    said = [choice[field] for field in _STOP_FIELDS if field in choice]
    if marks := [mark for mark in said if mark in stop]:
        return str(marks[0])
    return "" if said and not any(each in _STOPPED for each in said) else None


def _open(text: str, stop: Sequence[str]) -> str:
    """The closing tag of the tag that was opened last, outside thoughts that have an end."""
    outside = text.rpartition("</think>")[2]
    opened = [(outside.rfind(mark.replace("</", "<", 1)), mark) for mark in stop if "</" in mark]
    place, mark = max(opened, default=(-1, ""))
    return mark if place >= 0 else ""


def _content(content: object) -> tuple[str, str]:
    """Text and thoughts of a content: a text, parts of one, or nothing."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, Mapping):
        if content.get("type") in _PART:
            inner = next((content[name] for name in (*_PART, "text") if content.get(name)), None)
            return "", "".join(_content(inner))
        text = content.get("text", content.get("refusal"))
        if isinstance(text, str):
            return text, ""
    elif isinstance(content, list):
        texts, thoughts = zip(*map(_content, content), strict=True) if content else ((), ())
        return "".join(texts), "".join(thoughts)
    raise TypeError(f"expected a text as content, found {type(content).__name__}")


def _thoughts(message: Json) -> str:
    """What a reply puts beside the content."""
    for name in _THOUGHTS:
        if isinstance(thoughts := message.get(name), str) and thoughts.strip():
            return thoughts
    details = message.get("reasoning_details")  # OpenRouter
    parts = details if isinstance(details, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "".join(text for text in texts if isinstance(text, str))


def _calls(message: Json) -> list[Json]:
    """The functions that a reply calls, in OpenAI's old spelling, too."""
    calls = cast(Iterable[Mapping[str, Json]], message.get("tool_calls") or ())
    old = cast(Json, message.get("function_call"))
    return [call["function"] for call in calls] or ([old] if old else [])


def _call(function: Json) -> str:
    name, arguments = json.dumps(function["name"]), function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    arguments = arguments.strip() or "{}"
    return f'\n<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


def _count(value: object) -> int:
    """A number of tokens, 0 where it is none."""
    return int(value) if isinstance(value, int | float) and 0 <= value <= _MOST_TOKENS else 0
