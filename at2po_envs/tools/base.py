"""Tools: what they say of themselves, what they are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What an agent is told about a tool.

    Attributes:
        name: Name, also its tag in tag dialects: lower-case letters, digits and `_`.
        description: One sentence.
        parameters: JSON schema of its arguments, of type object.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = field(hash=False)

    @property
    def argument(self) -> str | None:
        """The name of its only required argument, which a tag may hold as plain text."""
        required = self.parameters.get("required", ())
        return str(required[0]) if len(required) == 1 else None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A request to a tool.

    Attributes:
        tool: Name of the tool.
        arguments: Its arguments by name.
        problem: Why it cannot be carried out, empty if it can; shown to the agent.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back.

    Attributes:
        ok: Whether the tool did its work.
        text: Text to show to the agent.
        error: Text to show instead when `ok` is false.
        titles: Titles of the passages in the text, best first.
        passages: The passages themselves, each a title line and then its text, for dialects that
            lay them out in their own way.
    """

    ok: bool
    text: str
    error: str = ""
    titles: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What the agent sees."""
        return self.text if self.ok else self.error


class Tool(Protocol):
    """Anything that answers a batch of calls."""

    @property
    def spec(self) -> ToolSpec:
        """Name, description and arguments."""
        ...

    @property
    def batched(self) -> bool:
        """Whether a whole batch costs little more than one call; else calls run one by one.

        The calls of a batch that raises are made again, each alone.
        """
        ...

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Return one result for each set of arguments, in order."""
        ...
