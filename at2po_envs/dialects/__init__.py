"""Dialects: how a turn is written, what the agent is shown, where generation stops."""

from __future__ import annotations

from collections.abc import Sequence

from at2po_envs.dialects.at2po import At2poTags
from at2po_envs.dialects.base import Action, Dialect, HowRead, Reading
from at2po_envs.dialects.boxes import extract_boxed, released_boxed
from at2po_envs.dialects.messages import Messages
from at2po_envs.dialects.search_r1 import SearchR1Tags
from at2po_envs.dialects.tool_calls import ToolCalls
from at2po_envs.errors import check_known
from at2po_envs.tools import SEARCH, ToolSpec

__all__ = [
    "DIALECTS",
    "Action",
    "At2poTags",
    "Dialect",
    "HowRead",
    "Messages",
    "Reading",
    "SearchR1Tags",
    "ToolCalls",
    "extract_boxed",
    "make_dialect",
    "released_boxed",
]

DIALECTS = ("at2po", "search-r1", "tool-calls")


def make_dialect(
    name: str,
    prompt: str | None = None,
    tools: Sequence[ToolSpec] = (SEARCH,),
    reading: HowRead = "structure",
) -> Dialect:
    """Return a dialect by its name.

    Args:
        name: One of `DIALECTS`.
        prompt: Name of the prompt; None for the dialect's own that fits the tools.
        tools: The tools that can be called.
        reading: How an ended episode is read; only the tag dialects have a released reading.

    Returns:
        The dialect.

    Raises:
        UnknownNameError: If there is no such dialect or prompt.
        ValueError: If the dialect or the prompt cannot speak of these tools.
    """
    search_only = [tool.name for tool in tools] == ["search"]
    if name == "at2po":
        return At2poTags(prompt or ("paper" if search_only else "tools"), tuple(tools), reading)
    if name == "tool-calls":
        if reading != "structure":
            raise ValueError(
                f"expected the reading 'structure' for the dialect tool-calls, found {reading!r}; "
                "no release reads tool calls: choose another scorer or dialect"
            )
        return ToolCalls(prompt or "tools", tuple(tools))
    check_known("a dialect", name, DIALECTS)
    if not search_only:
        names = [tool.name for tool in tools]
        raise ValueError(
            f"the dialect search-r1 knows search alone, found the tools {names}; "
            "choose at2po or tool-calls"
        )
    return SearchR1Tags(prompt or "paper", reading=reading)
