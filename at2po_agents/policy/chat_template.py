"""Chat templates: messages to token ids, and never a turn rendered twice.

A conversation in training is prompt ids, sampled ids, inserted ids, sampled ids, and so on. Only
prompts and insertions go through the template; a template serves if what it renders of a whole
conversation agrees with that, so that the model meets the same text in training and in use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from at2po_agents.errors import TokenizerError
from at2po_agents.policy.contents import as_content, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, object]

_USER: Message = {"role": "user", "content": "question"}
_CALLING: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "search", "arguments": {"query": "topic"}}}
    ],
}
_TOOL: Message = {"role": "tool", "content": "result"}
_FIX = (
    "for a Qwen model say --model.chat-template qwen3 (`policy.chat_template.QWEN3_TEMPLATE`); for "
    "another one give a template that renders every turn the same whatever follows it"
)


class ChatTemplateError(TokenizerError):
    """A tokenizer's chat template cannot carry a conversation of many turns exactly."""


# The tools block is the text that Qwen3 is trained with, so it has to be this one.
# Source: the chat template published with Qwen3. Unlike that one, this template keeps the thinking
# of every turn, adds none to a turn that has none, and writes a turn's content as it stands.
QWEN3_TEMPLATE = r"""
{%- set first = messages[0] %}
{%- set system = first.content if first.role == "system" else "" %}
{%- if tools %}
    {{- "<|im_start|>system\n" + (system + "\n\n" if system else "") }}
    {{- "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" }}
    {{- "You are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" + tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and " }}
    {{- "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n" }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif system %}
    {{- "<|im_start|>system\n" + system + "<|im_end|>\n" }}
{%- endif %}
{%- for message in (messages[1:] if first.role == "system" else messages) %}
    {%- if message.role == "tool" %}
        {{- "<|im_start|>user" if loop.first or loop.previtem.role != "tool" else "" }}
        {{- "\n<tool_response>\n" + message.content + "\n</tool_response>" }}
        {{- "<|im_end|>\n" if loop.last or loop.nextitem.role != "tool" else "" }}
    {%- elif message.role == "assistant" %}
        {{- "<|im_start|>assistant\n" }}
        {%- if message.reasoning_content %}
            {{- "<think>\n" + message.reasoning_content + "\n</think>\n\n" }}
        {%- endif %}
        {{- message.content or "" }}
        {%- for call in message.tool_calls or [] %}
            {%- set called = call.function or call %}
            {%- set given = called.arguments %}
            {{- "" if loop.first and not message.content else "\n" }}
            {{- '<tool_call>\n{"name": "' + called.name + '", "arguments": ' }}
            {{- given if given is string else given | tojson }}
            {{- "}\n</tool_call>" }}
        {%- endfor %}
        {{- "<|im_end|>\n" }}
    {%- else %}
        {{- "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\n" }}
{%- endif %}
"""


TEMPLATES = {"qwen3": QWEN3_TEMPLATE}
"""Templates by name, for models whose own one does not keep earlier turns."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Message] = (),
    *,
    open_turn: bool,
) -> str:
    """Return the text of a conversation.

    Args:
        tokenizer: Of the policy, with a chat template.
        messages: The conversation.
        tools: JSON schemas of the tools.
        open_turn: Whether to end with the marker that opens the assistant's next turn.

    Raises:
        ChatTemplateError: If there is no template, or it refuses the conversation.
    """
    if tokenizer.chat_template is None:
        raise ChatTemplateError(
            "expected a tokenizer with a chat template for chat messages with tools, found none; "
            "choose an instruct model, or the dialect at2po or search-r1"
        )
    try:
        text = tokenizer.apply_chat_template(
            cast("list[dict[str, str]]", [dict(message) for message in messages]),
            tools=[dict(tool) for tool in tools] or None,
            add_generation_prompt=open_turn,
            tokenize=False,
        )
    except Exception as problem:  # a template is a program, and may fail like one
        roles = [message["role"] for message in messages]
        raise ChatTemplateError(
            f"expected a chat template for a conversation of {roles}, found that it refuses: "
            f"{problem or repr(problem)}; give another template, or choose a dialect whose prompt "
            "is a message of the user, such as search-r1"
        ) from problem
    return str(text)


def encode_reply(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    turn: Sequence[int] | None = None,
) -> list[int]:
    """Encode the messages that answer a turn, up to the marker that opens the next one.

    Args:
        tokenizer: Of the policy.
        messages: What answers the turn, such as tool messages; only the template writes control
            tokens between them.
        turn: The turn's sampled ids; None for a turn that ended by its end-of-turn token.

    Returns:
        What the template writes behind a turn that calls a tool, from its end-of-turn token on, or
        from behind it where the turn ends with that token already. Earlier turns play no part.

    Raises:
        ChatTemplateError: If the template renders earlier turns differently because of a reply.
    """
    before, end = _calling(tokenizer, str(tokenizer.chat_template))
    answered = [_USER, _CALLING, *as_content(tokenizer, messages)]
    whole = render(tokenizer, answered, open_turn=True)
    if not whole.startswith(before):
        raise ChatTemplateError(_changed(before, whole))
    ids = encode(tokenizer, whole[before.rindex(_text(tokenizer, end)) :])
    return ids[1:] if turn is None or list(turn[-1:]) == [end] else ids


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token with which the chat template ends the assistant's turns.

    It ends generation, too, whatever the model calls the end of a text: base models stop at
    `<|endoftext|>` only, and would write the user's next message themselves.

    Args:
        tokenizer: Of the policy, with a chat template.

    Raises:
        ChatTemplateError: If there is none.
    """
    return _end_of_turn(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> int:
    # The template is there for the cache's key alone, because it can be replaced.
    mark = "the answer"
    said = render(tokenizer, [_USER, {"role": "assistant", "content": mark}], open_turn=False)
    _, written, after = said.rpartition(mark)
    if not written:
        raise ChatTemplateError(_left_out("assistant", said))
    after = after.lstrip()
    # Added tokens are cut out of a text before the rest is encoded: text splits there exactly.
    # One that is not special would be read as the end of what the agent says.
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = [token for token in encode(tokenizer, after)[:1] if token in special]
    if not ends:
        raise ChatTemplateError(
            f"expected the chat template to end a turn with a special token, found {after!r} "
            "behind it; add what ends a turn to the tokenizer as a special token, or give another "
            "template"
        )
    return ends[0]


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer whose template cannot carry conversations with tools exactly.

    Args:
        tokenizer: Of the policy.

    Raises:
        ChatTemplateError: If there is no template; if a turn's text changes with what follows it;
            or if a turn does not end with one special token.
    """
    _calling(tokenizer, str(tokenizer.chat_template))
    thinking = {**_CALLING, "content": "<think>\nreasons\n</think>\n\n"}
    talk = [_USER, thinking, _TOOL, _CALLING, _TOOL, {"role": "assistant", "content": "answer"}]
    for length in range(1, len(talk)):
        ends = talk[length - 1]["role"] != "assistant"
        shorter = render(tokenizer, talk[:length], open_turn=ends)
        longer = render(tokenizer, talk[: length + 1], open_turn=not ends)
        if not longer.startswith(shorter):
            raise ChatTemplateError(_changed(shorter, longer))


def check_contents(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> None:
    """Refuse a template that leaves out a message of the prompt, or changes the letters in it.

    Args:
        tokenizer: Of the policy, with a chat template.
        messages: The messages that an episode starts with, or that answer a turn.

    Raises:
        ChatTemplateError: If it does, or refuses the messages.
    """
    said = {f"Aa{number}": message for number, message in enumerate(messages)}
    before = [_USER, _CALLING] if messages[0]["role"] == "tool" else []
    talk = [*before, *({**message, "content": content} for content, message in said.items())]
    text = render(tokenizer, talk, open_turn=True)
    for content, message in said.items():
        if content not in text:
            raise ChatTemplateError(_left_out(str(message["role"]), text))


@lru_cache(maxsize=8)
def _calling(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, int]:
    """The text of a question and a turn that calls a tool, and the token that ends such a turn."""
    end = _end_of_turn(tokenizer, template)
    before = render(tokenizer, [_USER, _CALLING], open_turn=False)
    if not before.rstrip().endswith(_text(tokenizer, end)):
        raise ChatTemplateError(
            f"expected a turn with tool calls to end with {_text(tokenizer, end)!r}, found "
            f"{before[-60:]!r}; {_FIX}"
        )
    return before, end


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def _left_out(role: str, text: str) -> str:
    return (
        f"expected a chat template that writes messages of role {role!r} as they are, found one "
        f"left out or changed in {text[-60:]!r}; {_FIX}"
    )


def _changed(before: str, after: str) -> str:
    same = len(os.path.commonprefix([before, after]))
    return (
        f"expected a chat template that keeps earlier turns, found {before[same : same + 60]!r} "
        f"changed to {after[same : same + 60]!r} by what follows; {_FIX}"
    )
