"""The functional core: an episode is a frozen state, a step is a pure function of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from at2po_envs.dialects import At2poTags, Dialect
from at2po_envs.errors import EpisodeOverError, ToolResultError
from at2po_envs.questions import Question
from at2po_envs.scoring import judge


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A request to a tool: its name and its one text argument."""

    tool: str
    argument: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back.

    Attributes:
        ok: Whether the tool did its work.
        text: Text to show to the agent.
        error: Text to show instead when ``ok`` is false.
        titles: Titles of the passages in the text, best first.
    """

    ok: bool
    text: str
    error: str = ""
    titles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """What the agent wrote, what it was answered, and the titles of the passages in that."""

    action: str
    observation: str
    titles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """An episode so far.

    Attributes:
        question: The question asked.
        turns: The turns taken, in order.
        tool_calls: Calls made, bad ones included, those over the limit not.
        limit_reached: Whether the limit notice was given, so that the next turn is the last.
        done: Whether the episode has ended.
        flags: What went wrong outside the agent, e.g. ``"tool_failed"``.
    """

    question: Question
    turns: tuple[Turn, ...] = ()
    tool_calls: int = 0
    limit_reached: bool = False
    done: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """The state after a turn and what Gymnasium's ``step`` returns."""

    state: State
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass(frozen=True)
class SearchQA:
    """Rules of answering a question with the help of a search tool.

    Args:
        dialect: How turns are written.
        max_tool_calls: Calls that are carried out, >= 0; the next one is answered by the limit
            notice, and the turn after that ends the episode whatever it is.

    Raises:
        ValueError: If ``max_tool_calls`` is negative.
    """

    dialect: Dialect = At2poTags()
    max_tool_calls: int = 6

    def __post_init__(self) -> None:
        """Refuse a negative limit."""
        if self.max_tool_calls < 0:
            raise ValueError(f"expected max_tool_calls >= 0, found {self.max_tool_calls}")

    def begin(self, question: Question) -> tuple[State, str]:
        """Return the state in which an episode starts, and its first observation."""
        return State(question), self.dialect.prompt(question.question)

    def pending_calls(self, state: State, action: str) -> tuple[ToolCall, ...]:
        """Return the tool calls whose results ``transition`` needs for this action.

        Args:
            state: The episode so far.
            action: The agent's text.

        Returns:
            One search, or nothing where the turn asks for none or none is allowed.
        """
        if state.done or state.limit_reached or state.tool_calls >= self.max_tool_calls:
            return ()
        parsed = self.dialect.parse(action)
        if parsed.kind != "search" or parsed.problem:
            return ()
        return (ToolCall("search", parsed.content),)

    def transition(
        self, state: State, action: str, results: Sequence[ToolResult] = ()
    ) -> Transition:
        """Take one turn.

        Args:
            state: The episode so far; it stays as it is.
            action: The agent's own text of this turn.
            results: The results of ``pending_calls(state, action)``, in that order.

        Returns:
            The next state with observation, reward (not 0 only at the end), flags and info.

        Raises:
            EpisodeOverError: If the episode has ended.
            ToolResultError: If there are more or fewer results than pending calls.
        """
        _require_running(state)
        expected = len(self.pending_calls(state, action))
        if len(results) != expected:
            raise ToolResultError(
                f"expected {expected} tool results, found {len(results)}; "
                "resolve exactly what pending_calls(state, action) returns"
            )
        parsed = self.dialect.parse(action)
        if parsed.kind != "search" or state.limit_reached:
            return self._finish(state, action, parsed.kind, truncated=False)
        if state.tool_calls >= self.max_tool_calls:
            after = replace(state, limit_reached=True)
            return _continue(after, action, self.dialect.limit_notice)
        if parsed.problem:
            advice = f"No search was made: {parsed.problem}. Write <search> query </search>."
            results = (ToolResult(ok=False, text="", error=advice),)
        elif not all(result.ok for result in results):
            state = replace(state, flags=_with(state.flags, "tool_failed"))
        after = replace(state, tool_calls=state.tool_calls + 1)
        titles = tuple(title for result in results for title in result.titles)
        return _continue(after, action, self.dialect.render(results), titles)

    def truncate(self, state: State, action: str) -> Transition:
        """End an episode whose last turn ran out of generation budget, judged as it stands.

        Args:
            state: The episode so far.
            action: What was written of the turn.

        Returns:
            A transition with ``truncated`` true and ``terminated`` false.

        Raises:
            EpisodeOverError: If the episode has ended.
        """
        _require_running(state)
        return self._finish(state, action, self.dialect.parse(action).kind, truncated=True)

    def _finish(self, state: State, action: str, kind: str, *, truncated: bool) -> Transition:
        after = replace(state, turns=(*state.turns, Turn(action, "")), done=True)
        golds = state.question.golden_answers
        judgement = judge([turn.action for turn in after.turns], golds)
        info = _info(after, kind, ()) | {
            "answer": judgement.answer,
            "em": judgement.em,
            "f1": judgement.f1,
            "format_ok": judgement.format_ok,
        }
        return Transition(after, "", judgement.reward, not truncated, truncated, info)


def _require_running(state: State) -> None:
    if state.done:
        raise EpisodeOverError(
            f"expected a running episode, found one that ended after {len(state.turns)} turns; "
            "call reset() or restore() an earlier snapshot"
        )


def _continue(
    state: State, action: str, observation: str, titles: tuple[str, ...] = ()
) -> Transition:
    after = replace(state, turns=(*state.turns, Turn(action, observation, titles)))
    return Transition(after, observation, 0.0, False, False, _info(after, "search", titles))


def _info(state: State, kind: str, titles: tuple[str, ...]) -> dict[str, Any]:
    return {
        "question_id": state.question.id,
        "action": kind,
        "turns": len(state.turns),
        "tool_calls": state.tool_calls,
        "limit_reached": state.limit_reached,
        "flags": state.flags,
        "titles": titles,
    }


def _with(flags: tuple[str, ...], flag: str) -> tuple[str, ...]:
    return flags if flag in flags else (*flags, flag)
