"""Text to token ids, once and in one place: sampled ids never pass through here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from at2po_agents.errors import TokenizerError
from at2po_agents.policy import chat_template
from at2po_agents.policy.contents import as_content, encode
from at2po_envs import Dialect
from at2po_envs.dialects.messages import messages_of, tools_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAG = re.compile(r"</?[^<>\s|]+>")


def check_dialect(dialect: Dialect, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot carry what an environment's dialect writes and reads.

    Args:
        dialect: The environment's; one whose replies are chat messages needs a chat template.
        tokenizer: Of the policy.

    Raises:
        ChatTemplateError: If there is no template where one is needed; if the template refuses the
            dialect's prompt, or ends turns without a special token; or if it renders earlier turns
            differently, where replies are chat messages.
        TokenizerError: If decoding without special tokens loses a tag of the dialect: turns are
            read like that, so it would never be seen.
    """
    spoken = ("<think></think>", *dialect.stop, *dialect.templates, str(dialect.prompt("question")))
    tags = dict.fromkeys(_TAG.findall("".join(spoken)))
    if lost := [tag for tag in tags if _decoded(tokenizer, tag) != tag]:
        raise TokenizerError(
            f"expected the dialect's tags to survive decoding without special tokens, found that "
            f"the tokenizer loses {', '.join(lost)}; add them to it as tokens that are not special "
            "(tokenizer.add_tokens, not add_special_tokens), or as no tokens at all"
        )
    if replies := messages_of(dialect.limit_notice):
        chat_template.check_chat_template(tokenizer)
        chat_template.check_contents(tokenizer, replies)
    if tokenizer.chat_template is not None:
        chat_template.end_of_turn(tokenizer)
        chat_template.check_contents(tokenizer, _messages(dialect.prompt("question")))
        encode_prompt(tokenizer, dialect.prompt("question"))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode an episode's first observation.

    Args:
        tokenizer: Of the policy.
        text: The prompt. Where it carries chat messages (`messages`, and `tools` with their
            schemas) these are what is encoded.

    Returns:
        The ids of the conversation under the chat template, with the marker that opens the
        assistant's turn. A plain text is one message of role "system". Without a chat template
        the ids of the plain text, as long as no tools are offered. Whatever the text holds, control
        tokens are those of the template alone; see `contents.as_content`.
        Source: data rows of the released AT2PO code (one system message, generation prompt added).

    Raises:
        ChatTemplateError: If there are tools and no chat template, or the template refuses the
            messages.
    """
    return encode(tokenizer, prompt_text(tokenizer, text))


def prompt_text(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return what `encode_prompt` encodes, for those who need its length only; see there."""
    tools = tools_of(text)
    if tokenizer.chat_template is None and not tools:
        return as_content(tokenizer, str(text))
    messages, tools = as_content(tokenizer, _messages(text)), as_content(tokenizer, tools)
    return chat_template.render(tokenizer, messages, tools, open_turn=True)


def encode_inserted(
    tokenizer: PreTrainedTokenizerBase, text: str, turn: Sequence[int] | None = None
) -> list[int]:
    """Encode what the environment inserts after a turn, alone and without special tokens.

    Args:
        tokenizer: Of the policy.
        text: The observation. Where it carries chat messages, these are encoded as the chat
            template writes them behind a turn.
        turn: The ids of the turn it answers, as sampled; None for one that ended by its
            end-of-turn token. Only chat messages ask: they close a turn that was left open.

    Returns:
        The ids to append to the turn; control tokens are those of the template alone.
    """
    if messages := messages_of(text):
        return chat_template.encode_reply(tokenizer, messages, turn)
    return encode(tokenizer, as_content(tokenizer, text))


def _messages(prompt: str) -> Sequence[Mapping[str, str]]:
    return messages_of(prompt) or [{"role": "system", "content": str(prompt)}]


def _decoded(tokenizer: PreTrainedTokenizerBase, tag: str) -> str:
    text = tokenizer.decode(encode(tokenizer, tag), skip_special_tokens=True)
    return "".join(str(text).split())  # some tokenizers put spaces between tokens
