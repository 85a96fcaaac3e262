"""Question answering with any tools: the shortest way to an environment of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from at2po_envs.dialects import Dialect, make_dialect
from at2po_envs.episode.core import ToolQA
from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.episode.rewards import PaperReward, Reward
from at2po_envs.question_sets.questions import Question
from at2po_envs.scoring.answers import Match
from at2po_envs.tools import Tool
from at2po_envs.tools.functions import function_tool


class ToolEnv(ForkableTextEnv):
    """Answer questions with the help of tools.

    Args:
        questions: `Question` objects, or pairs of a question and its answer (or all answers that
            are right); pairs get the ids `"0"`, `"1"`, ...
        tools: `Tool` objects, or plain functions; see `tools.functions.function_tool`.
        dialect: How turns are written: a dialect for these tools, or the name of one, as
            `dialects.make_dialect` takes it; AT²PO's tags by default.
        prompt: Name of a prompt, for a dialect that is not passed as an object.
        max_tool_calls: Calls per episode, >= 0.
        reward: What turns earn.
        match: What counts as a right answer, such as `scoring.numeric_match`; exact match by
            default.
        tool_timeout_s: Seconds that a tool call may take; None waits.
        render_mode: None or `"ansi"`.

    Raises:
        ValueError: If there are no questions, two have the same id, two tools have the same name,
            or the dialect was made for other tools.
        FunctionToolError: If a function cannot be made into a tool.
        UnknownNameError: If there is no such prompt or render mode.
    """

    core: ToolQA

    def __init__(
        self,
        questions: Iterable[Question | tuple[str, str | Sequence[str]]],
        tools: Iterable[Tool | Callable[..., Any]],
        *,
        dialect: Dialect | str | None = None,
        prompt: str = "tools",
        max_tool_calls: int = 6,
        reward: Reward | None = None,
        match: Match | None = None,
        tool_timeout_s: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make tools of functions and questions of pairs."""
        made = [_tool(each) for each in tools]
        specs = tuple(tool.spec for tool in made)
        names = [spec.name for spec in specs]
        if len(set(names)) < len(names):
            raise ValueError(f"expected tools of different names, found {', '.join(names)}")
        if dialect is None or isinstance(dialect, str):
            dialect = make_dialect(dialect or "at2po", prompt, specs)
        elif set(names) != {spec.name for spec in dialect.tools}:
            told = ", ".join(spec.name for spec in dialect.tools)
            raise ValueError(
                f"expected a dialect for the tools {', '.join(names)}, found one for {told}; "
                "pass the tools' specs to the dialect"
            )
        asked = [_question(i, each) for i, each in enumerate(questions)]
        if len({question.id for question in asked}) < len(asked):
            raise ValueError("expected questions of different ids, found one twice")
        super().__init__(
            ToolQA(dialect, max_tool_calls, reward or PaperReward(), match),
            asked,
            made,
            tool_timeout_s=tool_timeout_s,
            render_mode=render_mode,
        )


def _tool(tool: Tool | Callable[..., Any]) -> Tool:
    return cast(Tool, tool) if hasattr(tool, "spec") else function_tool(tool)


def _question(number: int, question: Question | tuple[str, str | Sequence[str]]) -> Question:
    if isinstance(question, Question):
        return question
    try:
        text, answers = question
    except (TypeError, ValueError):
        raise ValueError(
            f"question {number}: expected a Question or a pair of question and answer, "
            f"found {question!r:.200}"
        ) from None
    return Question(str(number), text, (answers,) if isinstance(answers, str) else tuple(answers))
