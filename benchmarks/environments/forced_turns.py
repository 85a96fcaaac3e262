"""MiniWiki episodes of a fixed number of turns, whatever the policy writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from at2po_agents.rollout.environments import make_env
from at2po_envs.dialects import At2poTags
from at2po_envs.dialects.base import Action
from at2po_envs.episode.core import ToolQA
from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.tools import ToolCall

_QUERY_WORDS = 6


@dataclass(frozen=True)
class EveryTurnSearches(At2poTags):
    """AT²PO's tags, with a search in every turn.

    Args:
        ends: Strings at which a turn ends; none for those of the tags.
    """

    ends: tuple[str, ...] = ()

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings that were chosen."""
        return self.ends or super().stop

    def parse(self, text: str) -> Action:
        """Take a turn that is not a search for one with its own last words as the query."""
        action = super().parse(text)
        if action.kind == "tool" and not action.calls[0].problem:
            return action
        words = [word for word in text.split() if word.isalnum()][-_QUERY_WORDS:]
        return Action("tool", (ToolCall("search", {"query": " ".join(words) or "film"}),))


def forced_env(turns: int, options: Mapping[str, Any], ends: tuple[str, ...] = ()) -> Any:
    """Make a MiniWiki whose episodes have a fixed number of turns.

    All turns but the last two are answered by a search's passages, the last but one by the notice
    that the limit is reached. An episode is shorter only where it runs out of tokens.

    Args:
        turns: Turns per episode, >= 2.
        options: Of the environment.
        ends: Where a turn ends, as `EveryTurnSearches` takes it.

    Returns:
        The environment.
    """
    env = cast(ForkableTextEnv, make_env("at2po/MiniWiki-v0", options))
    env.core = ToolQA(EveryTurnSearches("brief", ends=ends), max_tool_calls=turns - 2)
    return env
