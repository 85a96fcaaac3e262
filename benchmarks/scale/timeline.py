"""Who did what when: a run's timeline, measured or simulated, and what it adds up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that one actor did without a break.

    Attributes:
        actor: Who, such as "collector-0", "learner-1" or "driver".
        stage: What: "collect", "weights", "update", "wait", or what else a run writes.
        step: For which step, from 0.
        start: When it began, in seconds since the run began.
        end: When it ended, at least `start`.
        parts: What its seconds went to, where that is known; they add up to its length.
    """

    actor: str
    stage: str
    step: int
    start: float
    end: float
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def step_seconds(pieces: Iterable[Piece]) -> float:
    """Return how long a step takes once a run is under way: between the ends of updates.

    Args:
        pieces: A timeline in which at least 2 steps were taken; the first does not count.
    """
    ends: dict[int, float] = {}
    for piece in pieces:
        if piece.stage == "update":
            ends[piece.step] = max(piece.end, ends.get(piece.step, 0.0))
    return (ends[max(ends)] - ends[min(ends)]) / (len(ends) - 1)


def stage_seconds(pieces: Iterable[Piece], stage: str, skip: int = 1) -> float:
    """Return how long a stage takes: in each step as long as for the actor whom it takes longest.

    Args:
        pieces: A timeline.
        stage: The stage.
        skip: Steps at the start that do not count.

    Returns:
        The mean over steps; 0 if the stage does not occur in them.
    """
    longest: dict[int, float] = {}
    for piece in pieces:
        if piece.stage == stage:
            longest[piece.step] = max(piece.seconds, longest.get(piece.step, 0.0))
    lengths = [longest[step] for step in sorted(longest)][skip:]
    return sum(lengths) / len(lengths) if lengths else 0.0


def time_by_part(pieces: Sequence[Piece], role: str = "") -> dict[str, float]:
    """Return what the time of all actors of a role went to.

    Args:
        pieces: A timeline that says what every actor did all the time.
        role: How their names begin; empty for all.

    Returns:
        Shares of their time by part (by stage where a piece has no parts), largest first; they add
        up to 1.
    """
    totals: dict[str, float] = {}
    for piece in pieces:
        if piece.actor.startswith(role):
            for name, seconds in (piece.parts or {piece.stage: piece.seconds}).items():
                totals[name] = totals.get(name, 0.0) + seconds
    whole = sum(totals.values())
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    return {name: seconds / whole for name, seconds in ranked if seconds}
