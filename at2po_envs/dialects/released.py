"""AT²PO's released format check, which counts tags wherever they stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def released_format_ok(turns: Sequence[str], tools: Collection[str]) -> bool:
    """Return whether an episode passes the released check.

    Every turn but the last was answered by the environment; whatever it answered (a result, an
    error, the limit notice) counts as the `<result>` that a call must be followed by.

    Args:
        turns: The agent's texts in order.
        tools: Names of the tools, each with a tag of its own.

    Source: the format check in ATPO/verl_atpo/verl/utils/reward_score/deep_research_em.py of
    github.com/zzfoutofspace/ATPO at 98e60f6, on the agent's own text.
    """
    whole = "\n".join(turns)
    if not 1 <= whole.count("<think>") == whole.count("</think>"):
        return False
    if whole.count("<answer>") != 1 or whole.count("</answer>") != 1:
        return False
    if not all(
        _calls_ok(turn, tools, answered=number < len(turns))
        for number, turn in enumerate(turns, start=1)
    ):
        return False
    inside, closing, _ = whole.partition("<answer>")[2].partition("</answer>")
    return bool(closing) and "\\boxed{" in inside and "}" in inside


def _calls_ok(turn: str, tools: Collection[str], *, answered: bool) -> bool:
    """Return whether every call opened in a turn was closed and got its result."""
    # <python> is a call too; where there is no such tool it never gets a result.
    if "python" not in tools and "<python>" in turn:
        return False
    opened = [name for name in tools if f"<{name}>" in turn]
    if len(opened) > 1:
        return False  # one result cannot answer two calls
    for name in opened:
        query, closing, after = turn.partition(f"<{name}>")[2].partition(f"</{name}>")
        if not (answered and closing) or f"<{name}>" in query + after:
            return False
    return True
