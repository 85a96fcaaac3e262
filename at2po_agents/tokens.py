"""Text to token ids, once and in one place: sampled ids never pass through here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from at2po_agents.chat_template import check_chat_template, encode, encode_reply, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_dialect(dialect: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot carry what an environment's dialect inserts.

    Args:
        dialect: The environment's; one whose replies are chat messages needs a chat template.
        tokenizer: Of the policy.

    Raises:
        ChatTemplateError: If there is no template, or it renders earlier turns differently.
    """
    if hasattr(dialect.limit_notice, "messages"):
        check_chat_template(tokenizer)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode an episode's first observation.

    Args:
        tokenizer: Of the policy.
        text: The prompt. Where it carries chat messages (`messages`, and `tools` with their
            schemas) these are what is encoded.

    Returns:
        The ids of the conversation under the chat template, with the marker that opens the
        assistant's turn. A plain text is one message of role "system". Without a chat template
        the ids of the plain text, as long as no tools are offered.
        Source: data rows of the released AT2PO code (one system message, generation prompt added).

    Raises:
        ChatTemplateError: If there are tools and no chat template.
    """
    messages = getattr(text, "messages", None) or [{"role": "system", "content": str(text)}]
    tools = getattr(text, "tools", ())
    if tokenizer.chat_template is None and not tools:
        return encode(tokenizer, str(text))
    return encode(tokenizer, render(tokenizer, messages, tools, open_turn=True))


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
        The ids to append to the turn.
    """
    messages = getattr(text, "messages", None)
    if messages is None:
        return encode(tokenizer, text)
    return encode_reply(tokenizer, messages, turn)
