"""The dialect of worlds that are played in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from at2po_envs.dialects.base import Action, Reading
from at2po_envs.tools import ToolResult, ToolSpec


@dataclass(frozen=True)
class RawText:
    """The whole turn is the action, and observations are lines.

    Args:
        stop: Where generation of a turn stops; the environment does not get to see it.
    """

    stop: tuple[str, ...] = ("\n",)

    tools: ClassVar[tuple[ToolSpec, ...]] = ()
    limit_notice: ClassVar[str] = ""
    templates: ClassVar[tuple[str, ...]] = ("{}",)

    def prompt(self, question: str) -> str:
        """Return the first observation, which ends its line."""
        return question if question.endswith("\n") else f"{question}\n"

    def parse(self, text: str) -> Action:
        """Read a turn, which means nothing but itself."""
        return Action("none")

    def render(self, results: Sequence[ToolResult]) -> str:
        """Return observations, each of which ends its line."""
        return "".join(self.prompt(result.shown) for result in results)

    def read(self, turns: Sequence[str]) -> Reading:
        """Read an ended episode: it has no answer, and no format to break."""
        return Reading(None, True)

    def command(self, action: str) -> str:
        """Return what the environment gets of a turn."""
        for mark in self.stop:
            action = action.removesuffix(mark)
        return action
