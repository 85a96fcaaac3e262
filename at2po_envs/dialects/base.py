"""What a dialect is: how a turn is written and read, and where generation stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from at2po_envs.tools import ToolCall, ToolResult, ToolSpec


@dataclass(frozen=True, slots=True)
class Action:
    """What a turn asks for.

    Attributes:
        kind: Tool calls, an answer, or neither.
        calls: The calls, malformed ones included, at least one if that is the kind.
    """

    kind: Literal["tool", "answer", "none"]
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What an ended episode says.

    Attributes:
        answer: The final answer as written, None if there is none.
        format_ok: Whether everything is written as the dialect asks.
    """

    answer: str | None
    format_ok: bool


HowRead = Literal["structure", "released"]
"""How an ended episode is read: by its structure, or as the method's release reads it."""

READINGS: tuple[HowRead, ...] = get_args(HowRead)


class Dialect(Protocol):
    """The language in which agent and environment speak."""

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        """The tools that can be called."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings at which generation of a turn stops."""
        ...

    @property
    def limit_notice(self) -> str:
        """Observation that answers the first tool call over the limit."""
        ...

    @property
    def templates(self) -> tuple[str, ...]:
        """Well-formed turns with one `{}` where free text goes, for sampling actions."""
        ...

    def prompt(self, question: str) -> str:
        """Return the first observation of an episode."""
        ...

    def parse(self, text: str) -> Action:
        """Read a turn; never raises."""
        ...

    def render(self, results: Sequence[ToolResult]) -> str:
        """Return the observation that shows tool results, failed ones included."""
        ...

    def read(self, turns: Sequence[str]) -> Reading:
        """Read an ended episode: the agent's own turns, without what was inserted; never raises."""
        ...
