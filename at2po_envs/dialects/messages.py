"""Observations made of chat messages that are still plain strings to Gymnasium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Messages(str):
    """A text to people, spaces and comparisons; chat messages to a model with a chat template.

    Args:
        text: What people read; equality and hash are those of this text.
        messages: The messages, each with `role` and `content`.
        tools: JSON schemas of the tools, in the form `{"type": "function", "function": {...}}`;
            only in the first observation of an episode.
    """

    messages: tuple[Mapping[str, str], ...]
    tools: tuple[Mapping[str, Any], ...]

    def __new__(
        cls,
        text: str,
        messages: Sequence[Mapping[str, str]],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Messages:
        """Keep the messages beside the text."""
        self = super().__new__(cls, text)
        self.messages, self.tools = tuple(messages), tuple(tools)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return what pickle and deepcopy make the object of."""
        return str(self), self.messages, self.tools


def messages_of(text: str) -> tuple[Mapping[str, str], ...]:
    """Return the chat messages that a text carries, none if it is plain."""
    return text.messages if isinstance(text, Messages) else ()


def tools_of(text: str) -> tuple[Mapping[str, Any], ...]:
    """Return the schemas of the tools that a prompt offers, none if it is plain."""
    return text.tools if isinstance(text, Messages) else ()
