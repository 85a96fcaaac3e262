"""Contents are never control: what stands in a question or a passage is text to the tokenizer.

A tokenizer finds its control tokens wherever their text stands, so a passage that holds
`<|im_end|>` would end a message. Here the text of each control token is broken in contents before a
chat template sees them, and what is rendered is encoded up to each break and from there on. Text
without such marks is encoded as it stands, so its ids are those that the tokenizer gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, cast

from retrieval.text import to_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

# A lone surrogate: no content has one left, and templates carry it along like any character.
_BREAK = "\ud800"

# What models of several makers call their control tokens without flagging them as special: marks
# in bars, such as Qwen's <|fim_prefix|> and DeepSeek's <｜User｜>.
_BARS = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)
_TAG = re.compile(r"</?[^<>]+>")
# Tags that dialects write in plain text; templates may know them, too.
_WORDS = frozenset("think answer search result information".split())


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode text alone and without adding special tokens.

    Args:
        tokenizer: Of the policy.
        text: The text; contents in it that are foreign have gone through `as_content`.

    Returns:
        Its ids. Control tokens in the text are recognised where it is not content.
    """
    ids: list[int] = []
    for piece in text.split(_BREAK):
        ids += tokenizer.encode(piece, add_special_tokens=False) if piece else []
    return ids


def as_content(tokenizer: PreTrainedTokenizerBase, value: T) -> T:
    """Return contents that `encode`, behind a chat template or not, reads as nothing but text.

    Control tokens are those that the tokenizer calls special, those written in bars (`<|name|>`),
    and the tags that the chat template writes itself, `<think>` and the tags of dialects apart. A
    token of a single character is text, whatever its tokenizer calls it.

    Args:
        tokenizer: Of the policy.
        value: A text, or messages and schemas made of texts.

    Returns:
        The same, with U+FFFD for lone surrogates, which no tokenizer takes.
    """
    marks = _marks(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    return cast(T, _plain(marks, value))


def _plain(marks: _Marks, value: object) -> object:
    if isinstance(value, str):
        return marks.broken(to_unicode(value))
    if isinstance(value, Mapping):
        return {_plain(marks, name): _plain(marks, each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(marks, each) for each in value]
    return value


class _Marks:
    """The texts of a tokenizer's control tokens.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template = str(tokenizer.chat_template)
        added = tokenizer.added_tokens_decoder
        found = {
            token.content
            for token in added.values()
            if token.special or _BARS.fullmatch(token.content) or _writes(template, token.content)
        }
        texts = {text for text in found | set(tokenizer.all_special_tokens) if len(text) > 1}
        longest_first = sorted(texts, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # A template may join contents, each of which holds a part of a mark.
        self._begun = _no_words(text[:cut] for text in texts for cut in range(2, len(text)))
        self._ended = _no_words(text[cut:] for text in texts for cut in range(1, len(text) - 1))
        ids = {tokenizer.convert_tokens_to_ids(text) for text in longest_first}
        self._ids = ids - {tokenizer.unk_token_id}
        # Such a token is found in the normalised text, so other texts may stand for it.
        self._aliases = any(token.normalized for token in added.values() if token.content in texts)
        self._cuts: dict[str, int] = {}

    def broken(self, text: str) -> str:
        """Return a text with a break inside every mark, also of one that it begins or ends."""
        while self._pattern.search(text):  # a mark may overlap with the next one
            text = self._pattern.sub(lambda found: self._cut(found.group()), text)
        first, last = len(text) - len(text.lstrip()), len(text.rstrip()) - 1
        if text.endswith(self._begun, 0, last + 1):
            text = text[:last] + _BREAK + text[last:]
        if text.startswith(self._ended, first):
            text = text[: first + 1] + _BREAK + text[first + 1 :]
        if self._aliases and not self._ids.isdisjoint(encode(self._tokenizer, text)):
            return _BREAK.join(text)
        return text

    def _cut(self, mark: str) -> str:
        """Break a mark where that takes the fewest tokens, as it takes where it is no token."""

        def cost(cut: int) -> int:
            within = f" {mark[:cut]}{_BREAK}{mark[cut:]}\n"  # pieces merge with what is around
            return len(encode(self._tokenizer, within))

        if mark not in self._cuts:
            self._cuts[mark] = min(range(1, len(mark)), key=cost)
        cut = self._cuts[mark]
        return mark[:cut] + _BREAK + mark[cut:]


@lru_cache(maxsize=8)
def _marks(tokenizer: PreTrainedTokenizerBase, template: str, size: int) -> _Marks:
    # Template and size are there for the cache's key alone, because both can change.
    return _Marks(tokenizer)


def _no_words(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple({part for part in parts if not part.isalnum()})


def _writes(template: str, token: str) -> bool:
    """Whether a token is a tag that a template writes, such as `<tool_response>`."""
    return (
        _TAG.fullmatch(token) is not None and token.strip("</>") not in _WORDS and token in template
    )
