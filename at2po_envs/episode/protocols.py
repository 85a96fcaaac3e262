"""What rollouts, evaluations and checks need of an environment: the seam to everything outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from gymnasium import Space
from gymnasium.envs.registration import EnvSpec

from at2po_envs.dialects import Dialect
from at2po_envs.episode.outcome import Outcome
from at2po_envs.episode.state import State, Transition
from at2po_envs.question_sets.questions import Question
from at2po_envs.scoring.answers import OURS, Scorer
from at2po_envs.tools import Tool, ToolCall, ToolResult, ToolRunner


class Core(Protocol):
    """Pure rules of a text world: an episode is a frozen state, a step is a function of it."""

    @property
    def dialect(self) -> Dialect:
        """How turns are written."""
        ...

    def begin(self, question: Question) -> tuple[State, str]:
        """Return the first state and observation."""
        ...

    def pending_calls(self, state: State, action: str) -> tuple[ToolCall, ...]:
        """Return the tool calls that a transition waits for."""
        ...

    def transition(self, state: State, action: str, results: Sequence[ToolResult]) -> Transition:
        """Take one turn."""
        ...

    def truncate(self, state: State, action: str) -> Transition:
        """End an episode whose last turn ran out of budget."""
        ...


@runtime_checkable
class ScoringCore(Core, Protocol):
    """A core that compares answers with golden ones."""

    @property
    def scorer(self) -> Scorer:
        """How it does so."""
        ...


def scorer_of(core: Core) -> Scorer:
    """Return how a core compares answers: ours, where it does not say."""
    return core.scorer if isinstance(core, ScoringCore) else OURS


@runtime_checkable
class Restorable(Protocol):
    """What can be saved and taken back: an environment, or a wrapper around one."""

    def snapshot(self) -> Any:
        """Return all that `restore` needs."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, as often as wanted."""
        ...


@runtime_checkable
class Forkable(Restorable, Protocol):
    """What can also be doubled where it stands."""

    def fork(self) -> Self:
        """Return an independent twin at this point."""
        ...


@runtime_checkable
class ForkableEnv(Forkable, Protocol):
    """A text environment whose episodes can be saved, restored, forked, and grown into trees.

    Rollouts and evaluations ask its `core` and carry out tool calls of many episodes together;
    Gymnasium's `reset` and `step` do the same for one. `ForkableTextEnv` is all of it, around a
    core of one's own; `at2po/Replay-v0` makes it of a third party's environment of texts.
    """

    @property
    def core(self) -> Core:
        """The rules."""
        ...

    @property
    def spec(self) -> EnvSpec | None:
        """What it was registered as, and made with."""
        ...

    @property
    def questions(self) -> Sequence[Question]:
        """What episodes are about."""
        ...

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name."""
        ...

    @property
    def action_space(self) -> Space[Any]:
        """Where random turns are drawn from."""
        ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode."""
        ...

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn."""
        ...

    def run_tools(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Carry out tool calls of any number of episodes."""
        ...

    def tool_runner(self) -> ToolRunner:
        """Return what carries out tool calls while other episodes go on."""
        ...

    def wait_for_tools(self, timeout_s: float) -> list[str] | None:
        """Wait for tools outside this process; return those unavailable, None if there are none."""
        ...

    def record(self, state: State, outcome: Outcome) -> dict[str, Any]:
        """Return an ended episode as JSON-able data, without its prompt."""
        ...
