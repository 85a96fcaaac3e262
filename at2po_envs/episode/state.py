"""An episode as data: the turns so far, and what a turn leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from at2po_envs.question_sets.questions import Question


@dataclass(frozen=True, slots=True)
class Turn:
    """What the agent wrote, what it was answered, and the titles of the passages in that."""

    action: str
    observation: str
    titles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """An episode so far; a world of its own rules adds fields in a subclass.

    Attributes:
        question: The question asked, or the task set.
        turns: The turns taken, in order.
        tool_calls: Calls made, bad ones included, those over the limit not.
        total_reward: Sum of the rewards of all turns.
        limit_reached: Whether the limit notice was given, so that the next turn is the last.
        done: Whether the episode has ended.
        flags: What went wrong outside the agent, e.g. `"tool_failed"`.
    """

    question: Question
    turns: tuple[Turn, ...] = ()
    tool_calls: int = 0
    total_reward: float = 0.0
    limit_reached: bool = False
    done: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """The state after a turn and what Gymnasium's `step` returns.

    At the end of an episode `info` holds `answer`, `em` (whether it succeeded), `f1` and
    `format_ok` whatever the world.
    """

    state: State
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
