"""Text to token ids, once and in one place: sampled ids never pass through here."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode an episode's first observation.

    Args:
        tokenizer: of the policy.
        text: the prompt.

    Returns:
        The ids of one message of role "system" under the chat template, with the marker that
        opens the assistant's turn; without a chat template, the plain ids of the text.
        Source: data rows of the released AT2PO code (one system message, generation prompt added).
    """
    if tokenizer.chat_template is None:
        return encode_inserted(tokenizer, text)
    messages = [{"role": "system", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return encode_inserted(tokenizer, str(rendered))


def encode_inserted(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode text that the environment inserts after a turn, alone and without special tokens."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
