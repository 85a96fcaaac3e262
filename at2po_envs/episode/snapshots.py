"""Snapshots of an episode, and whether one belongs to an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from at2po_envs.episode.state import State
from at2po_envs.errors import SnapshotError
from at2po_envs.question_sets.questions import Question


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that decides how an environment goes on: the episode and the generator.

    Attributes:
        state: State of the episode, None before the first reset.
        generator: State of the bit generator that draws questions.
    """

    state: State | None
    generator: Mapping[str, Any] = field(repr=False, hash=False)


def check_snapshot(
    snapshot: Snapshot, questions: Sequence[Question], index: Mapping[str, int]
) -> None:
    """Refuse what is no snapshot, and the snapshot of an environment that has other questions.

    Args:
        snapshot: What is to be restored.
        questions: The questions of the environment.
        index: Their places by id.

    Raises:
        SnapshotError: If it does not belong to the environment.
    """
    if not isinstance(snapshot, Snapshot):
        raise SnapshotError(f"expected what snapshot() returned, found a {type(snapshot).__name__}")
    state = snapshot.state
    if state is None:
        return
    if not isinstance(state, State):
        raise SnapshotError(f"expected a State in the snapshot, found a {type(state).__name__}")
    known = index.get(state.question.id)
    if known is None or questions[known] != state.question:
        raise SnapshotError(
            f"expected a snapshot about one of the {len(questions)} questions of this "
            f"environment, found question {state.question.id!r:.200}; restore it in an "
            "environment like the one it was taken in"
        )


def set_generator(generator: np.random.BitGenerator, state: Mapping[str, Any]) -> None:
    """Set a bit generator to a state, or leave it as it is.

    Raises:
        SnapshotError: If the state is not one of such a generator.
    """
    before = generator.state
    try:
        generator.state = state
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        generator.state = before
        raise SnapshotError(
            f"expected the state of a {type(generator).__name__} in the snapshot, found "
            f"{state!r:.200}: {error}; restore it in an environment like the one it was taken in"
        ) from error
