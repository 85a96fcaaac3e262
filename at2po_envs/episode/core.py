"""The functional core: an episode is a frozen state, a step is a pure function of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from at2po_envs.dialects import Action, At2poTags, Dialect
from at2po_envs.episode.rewards import PaperReward, Reward
from at2po_envs.episode.state import State, Transition, Turn
from at2po_envs.errors import EpisodeOverError, ToolResultError, check_integer
from at2po_envs.question_sets.questions import Question
from at2po_envs.scoring.answers import OURS, Judgement, Match, Scorer, judge
from at2po_envs.tools import ToolCall, ToolResult

_S = TypeVar("_S", bound=State)


@dataclass(frozen=True)
class ToolQA:
    """Rules of answering a question with the help of tools.

    Args:
        dialect: How turns are written, and which tools there are.
        max_tool_calls: Calls that are carried out, >= 0; the next one is answered by the limit
            notice, and the turn after that ends the episode whatever it is.
        reward: What turns earn.
        match: What counts as a right answer instead of the scorer's exact match.
        scorer: How answers are compared with the golden ones.

    Raises:
        ValueError: If `max_tool_calls` is out of range.
    """

    dialect: Dialect = At2poTags()
    max_tool_calls: int = 6
    reward: Reward = PaperReward()
    match: Match | None = None
    scorer: Scorer = OURS

    def __post_init__(self) -> None:
        """Refuse a limit that is no number of calls."""
        check_integer("max_tool_calls", self.max_tool_calls, 0)

    def begin(self, question: Question) -> tuple[State, str]:
        """Return the state in which an episode starts, and its first observation."""
        return State(question), self.dialect.prompt(question.question)

    def pending_calls(self, state: State, action: str) -> tuple[ToolCall, ...]:
        """Return the tool calls whose results `transition` needs for this action.

        Args:
            state: The episode so far.
            action: The agent's text.

        Returns:
            The turn's calls that are well-formed and within the limit.
        """
        allowed = self._allowed(state, self.dialect.parse(action))
        return tuple(call for call in allowed if not call.problem)

    def _allowed(self, state: State, parsed: Action) -> tuple[ToolCall, ...]:
        """The turn's calls that count, malformed ones included."""
        room = self.max_tool_calls - state.tool_calls
        if state.done or state.limit_reached or room <= 0:
            return ()
        return parsed.calls[:room]

    def transition(
        self, state: State, action: str, results: Sequence[ToolResult] = ()
    ) -> Transition:
        """Take one turn.

        Args:
            state: The episode so far; it stays as it is.
            action: The agent's own text of this turn.
            results: The results of `pending_calls(state, action)`, in that order.

        Returns:
            The next state with observation, reward, flags and info.

        Raises:
            EpisodeOverError: If the episode has ended.
            ToolResultError: If there are more or fewer results than pending calls.
        """
        running(state, State)
        parsed = self.dialect.parse(action)
        allowed = self._allowed(state, parsed)
        answers = _answers(allowed, results)
        if parsed.kind != "tool" or state.limit_reached:
            return self._finish(state, action, parsed.kind, truncated=False)
        if not allowed:
            after = replace(state, limit_reached=True)
            return self._continue(state, after, Turn(action, self.dialect.limit_notice))
        if not all(result.ok for result in results):
            flags = state.flags if "tool_failed" in state.flags else (*state.flags, "tool_failed")
        else:
            flags = state.flags
        # Calls of the same turn beyond the limit are told so, one by one.
        over = ToolResult(False, "", "The tool call limit is reached; this call was not made.")
        answers += [over] * (len(parsed.calls) - len(allowed))
        after = replace(state, tool_calls=state.tool_calls + len(allowed), flags=flags)
        titles = tuple(title for result in answers for title in result.titles)
        return self._continue(state, after, Turn(action, self.dialect.render(answers), titles))

    def truncate(self, state: State, action: str) -> Transition:
        """End an episode whose last turn ran out of generation budget, judged as it stands.

        Args:
            state: The episode so far.
            action: What was written of the turn.

        Returns:
            A transition with `truncated` true and `terminated` false.

        Raises:
            EpisodeOverError: If the episode has ended.
        """
        running(state, State)
        return self._finish(state, action, self.dialect.parse(action).kind, truncated=True)

    def judge(self, state: State) -> Judgement:
        """Return what an episode is worth as it stands."""
        actions = [turn.action for turn in state.turns]
        golds = state.question.golden_answers
        return judge(actions, golds, self.dialect, self.match, self.scorer)

    def _continue(self, before: State, after: State, turn: Turn) -> Transition:
        after = replace(after, turns=(*before.turns, turn))
        return transition_to(after, "tool", self.reward(before, after, None))

    def _finish(self, before: State, action: str, kind: str, *, truncated: bool) -> Transition:
        after = replace(before, turns=(*before.turns, Turn(action, "")), done=True)
        judgement = self.judge(after)
        terms = self.reward(before, after, judgement)
        return transition_to(after, kind, terms, judgement, truncated=truncated)


def transition_to(
    after: State,
    kind: str,
    terms: Mapping[str, float],
    judgement: Judgement | None = None,
    *,
    truncated: bool = False,
) -> Transition:
    """Return the transition to a state, with what `info` holds in every world.

    Args:
        after: The episode after the turn; `total_reward` is that before it.
        kind: What the turn did.
        terms: The terms of its reward, whose sum is the reward; `info` has them as `reward_<name>`.
        judgement: What the episode is worth, if it has ended.
        truncated: Whether it was cut off.
    """
    reward = sum(terms.values())
    after = replace(after, total_reward=after.total_reward + reward)
    turn = after.turns[-1]
    info = {
        "question_id": after.question.id,
        "action": kind,
        "turns": len(after.turns),
        "tool_calls": after.tool_calls,
        "limit_reached": after.limit_reached,
        "flags": after.flags,
        "titles": turn.titles,
        **{f"reward_{name}": value for name, value in terms.items()},
        **(asdict(judgement) if judgement else {}),
    }
    terminated = after.done and not truncated
    return Transition(after, turn.observation, reward, terminated, truncated, info)


def _answers(calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> list[ToolResult]:
    """Put the results of the well-formed calls and the problems of the others in order."""
    expected = sum(not call.problem for call in calls)
    if len(results) != expected:
        raise ToolResultError(
            f"expected {expected} tool results, found {len(results)}; "
            "resolve exactly what pending_calls(state, action) returns"
        )
    given = iter(results)
    return [ToolResult(False, "", c.problem) if c.problem else next(given) for c in calls]


def running(state: State, kind: type[_S]) -> _S:
    """Return the state of an episode that runs, as one of its world.

    Args:
        state: The episode so far.
        kind: Class of the states of the world.

    Raises:
        TypeError: If it is a state of another world.
        EpisodeOverError: If the episode has ended.
    """
    state = state_of(state, kind)
    if state.done:
        raise EpisodeOverError(
            f"expected a running episode, found one that ended after {len(state.turns)} turns; "
            "call reset() or restore() an earlier snapshot"
        )
    return state


def state_of(state: State, kind: type[_S]) -> _S:
    """Return a state as one of its world; TypeError if it is of another."""
    if not isinstance(state, kind):
        raise TypeError(f"expected a {kind.__name__}, found a {type(state).__name__}")
    return state
