"""The Gymnasium shell around a functional core: reset, step, snapshot, restore, fork."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from at2po_envs.episode.outcome import Outcome
from at2po_envs.episode.protocols import Core, scorer_of
from at2po_envs.episode.snapshots import Snapshot, check_snapshot, set_generator
from at2po_envs.episode.spaces import TextSpace
from at2po_envs.episode.state import State
from at2po_envs.errors import InvalidActionError, UnknownNameError, check_known
from at2po_envs.question_sets.questions import Question
from at2po_envs.tools import (
    Tool,
    ToolCall,
    ToolResult,
    ToolRunner,
    call_tools,
    check_timeout,
    hung_calls,
)
from retrieval.errors import nearest


class ForkableTextEnv(gymnasium.Env[str, str]):
    """A text world that can be saved, restored and forked at every turn.

    Args:
        core: The rules.
        questions: The questions that episodes are about, at least one, with unique ids.
        tools: The tools that the core may call.
        tool_timeout_s: Seconds that a tool call may take, > 0; None waits, and keeps to one thread.
        render_mode: `"ansi"` lets `render` return a transcript.

    Raises:
        ValueError: If there are no questions, or the deadline is out of range.
        UnknownNameError: If there is no such render mode.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]

    def __init__(
        self,
        core: Core,
        questions: Sequence[Question],
        tools: Sequence[Tool] = (),
        *,
        tool_timeout_s: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Check the parts and keep them; nothing is loaded."""
        if not questions:
            raise ValueError("expected at least one question, found none; pass a non-empty set")
        check_timeout(tool_timeout_s)
        if render_mode not in (None, "ansi"):
            raise UnknownNameError(f"expected render_mode None or 'ansi', found {render_mode!r}")
        self.core = core
        self.questions = tuple(questions)
        self.tools = {tool.spec.name: tool for tool in tools}
        self.tool_timeout_s = tool_timeout_s
        self.render_mode = render_mode
        self.observation_space = TextSpace()
        self.action_space = TextSpace(templates=core.dialect.templates)
        self._index = {question.id: i for i, question in enumerate(self.questions)}
        self._state: State | None = None

    @property
    def state(self) -> State:
        """The episode so far.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self._state is None:
            raise ResetNeeded("expected a running episode, found none; call reset() first")
        return self._state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seeds the generator that draws the question.
            options: `{"question_id": id}` or `{"index": n}` picks the question instead.

        Returns:
            The prompt, and info with the question's id.

        Raises:
            UnknownNameError: If an option or the question is not known.
        """
        super().reset(seed=seed)
        question = self.questions[self._choose(options or {})]
        self._state, observation = self.core.begin(question)
        return observation, {"question_id": question.id}

    def _choose(self, options: Mapping[str, Any]) -> int:
        for name in options:
            check_known("a reset option", name, ("question_id", "index"))
        if len(options) > 1:
            raise UnknownNameError("expected question_id or index as reset option, found both")
        if "question_id" in options:
            wanted = options["question_id"]
            if not isinstance(wanted, str) or wanted not in self._index:
                raise UnknownNameError(
                    f"expected the id of one of {len(self.questions)} questions, found {wanted!r}; "
                    + nearest(str(wanted), self._index)
                )
            return self._index[wanted]
        if "index" in options:
            index = options["index"]
            if not isinstance(index, int | np.integer) or not 0 <= index < len(self.questions):
                raise UnknownNameError(
                    f"expected an index from 0 to {len(self.questions) - 1}, found {index!r}"
                )
            return int(index)
        return int(self.np_random.integers(len(self.questions)))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn.

        Args:
            action: The agent's own text of this turn.

        Returns:
            Observation, reward, terminated, truncated (never, by a step) and info, which says under
            `hung_calls` how many tool calls of this process hang, if any does.

        Raises:
            InvalidActionError: If the action is not a string.
            EpisodeOverError: If the episode has ended.
            ResetNeeded: Before the first reset.
        """
        if not isinstance(action, str):
            raise InvalidActionError(f"expected a str as action, found {type(action).__name__}")
        return self.advance(action, self.run_tools(self.core.pending_calls(self.state, action)))

    def advance(
        self, action: str, results: Sequence[ToolResult]
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn whose tool calls have been carried out; see `step`.

        Args:
            action: The agent's own text of this turn.
            results: The results of `core.pending_calls(state, action)`, in that order.

        Returns:
            What `step` returns.
        """
        taken = self.core.transition(self.state, action, results)
        self._state = taken.state
        hung = hung_calls() if self.tool_timeout_s is not None else 0
        info = taken.info | {"hung_calls": hung} if hung else taken.info
        return taken.observation, taken.reward, taken.terminated, taken.truncated, info

    def run_tools(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Carry out tool calls of any number of episodes; see `tools.call_tools`."""
        return call_tools(self.tools, calls, self.tool_timeout_s)

    def tool_runner(self) -> ToolRunner:
        """Return what carries out tool calls while other episodes go on."""
        return ToolRunner(self.tools, self.tool_timeout_s)

    def wait_for_tools(self, timeout_s: float) -> list[str] | None:
        """Wait for tools outside this process, those that have a method `ready(timeout_s)`.

        Args:
            timeout_s: Longest wait for each of them, in seconds, > 0.

        Returns:
            Names of those that are still unavailable; None if there are no such tools.
        """
        asked = {name: getattr(tool, "ready", None) for name, tool in self.tools.items()}
        ready = {name: ask(timeout_s) for name, ask in asked.items() if ask is not None}
        told = {name: there for name, there in ready.items() if there is not None}
        return [name for name, there in told.items() if not there] if told else None

    def snapshot(self) -> Snapshot:
        """Return all that `restore` needs; the cost does not depend on the episode's length."""
        return Snapshot(self._state, self.np_random.bit_generator.state)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, as often as wanted, in this environment or one like it.

        Args:
            snapshot: Of an environment with the same question.

        Raises:
            SnapshotError: If it is of another environment; this one stays as it is.
        """
        check_snapshot(snapshot, self.questions, self._index)
        set_generator(self.np_random.bit_generator, snapshot.generator)
        self._state = snapshot.state

    def fork(self) -> Self:
        """Return an independent environment at this point, sharing core, questions and tools."""
        twin = copy.copy(self)
        twin.action_space = copy.copy(self.action_space)
        twin.action_space._np_random = None  # type: ignore[assignment]  # it samples for itself
        twin.np_random = np.random.Generator(type(self.np_random.bit_generator)(0))
        twin.restore(self.snapshot())
        return twin

    def record(self, state: State, outcome: Outcome) -> dict[str, Any]:
        """Return an ended episode as JSON-able data, without its prompt.

        Args:
            state: The episode after its last turn.
            outcome: How it ended: `Outcome.from_info` of the last step's info.

        Returns:
            Question, answer, scores, counts, the titles retrieved (in order), and every turn.
            `cover_em` holds wherever `em` does, in worlds whose answers are no texts too.
            `retrieval_recall` is the share of the question's supporting titles that were
            retrieved, None where its set names none. (`evidence_titles` of single-hop sets do
            not count: any one of them would do, and they were found by another retriever.)
        """
        question, answer = state.question, outcome.answer
        scorer = scorer_of(self.core)
        covers = answer is not None and scorer.cover_exact_match(answer, question.golden_answers)
        titles = [title for turn in state.turns for title in turn.titles]
        wanted = set(question.metadata.get("supporting_titles") or ())
        return {
            "question_id": question.id,
            "question_key": question.key,
            "question": question.question,
            "golden_answers": list(question.golden_answers),
            "prediction": answer,
            "em": outcome.em,
            "f1": outcome.f1,
            "cover_em": outcome.em or covers,
            "format_ok": outcome.format_ok,
            "reward": state.total_reward,
            "turns": len(state.turns),
            "searches": state.tool_calls,
            "limit_reached": state.limit_reached,
            "truncated": outcome.truncated,
            "flags": list(state.flags),
            "titles": titles,
            "retrieval_recall": len(wanted.intersection(titles)) / len(wanted) if wanted else None,
            "transcript": [
                {"action": turn.action, "observation": turn.observation} for turn in state.turns
            ],
        }

    def render(self) -> str | None:
        """Return the episode as a readable transcript in mode `"ansi"`, else None."""
        if self.render_mode is None:
            return None
        state = self.state
        lines = [f"Question: {state.question.question}"]
        for number, turn in enumerate(state.turns, start=1):
            lines += [f"--- turn {number}", turn.action.strip()]
            lines += [turn.observation.strip()] if turn.observation else []
        lines.append(f"--- {'ended' if state.done else 'running'}, {state.tool_calls} tool calls")
        return "\n".join(lines)
