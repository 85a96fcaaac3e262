"""What the processes of a run did when, and what that comes to.

Of a step that was done again after a restart both times count: both were work, and took time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

from at2po_agents.monitoring import trace as timeline
from at2po_agents.monitoring.trace import WORK, Span
from benchmarks.errors import RunFolderError

TRACE = "trace.json"
STAGES = (*WORK, "wait")
"""The stages that we write, in the order in which they are shown."""


class Piece(NamedTuple):
    """A span of a lane, and the number of the step that it belongs to."""

    step: int
    span: Span


class Step(NamedTuple):
    """A step as a stretch of time, in seconds: what was done since the step before had ended."""

    number: int
    start: float
    end: float


class Stage(NamedTuple):
    """What a stage comes to.

    Attributes:
        name: Its name.
        seconds: Time in it, summed over the actors.
        share: Of the time of all actors.
        tokens_per_s: Tokens over the seconds in which at least one actor was in it, or None.
    """

    name: str
    seconds: float
    share: float
    tokens_per_s: float | None


class Kind(NamedTuple):
    """How the actors of a kind, such as "rollout_worker", spent their time: three shares of 1.

    Attributes:
        name: The kind.
        actors: How many there are.
        busy: At work.
        waiting: Waiting, and saying so.
        idle: With nothing noted.
    """

    name: str
    actors: int
    busy: float
    waiting: float
    idle: float


@dataclass(frozen=True)
class Processes:
    """A run's time line.

    Attributes:
        lanes: What each actor did, in order of time.
        steps: The steps in order of time; one that was done again is in it twice.
        stages: What each stage comes to.
        kinds: How each kind of actor spent its time.
        seconds: From the first beginning to the last end.
    """

    lanes: Mapping[str, Sequence[Piece]]
    steps: Sequence[Step]
    stages: Sequence[Stage]
    kinds: Sequence[Kind]
    seconds: float


def read_processes(folder: Path) -> Processes | None:
    """Read the time line of a run.

    Args:
        folder: Folder of the run.

    Returns:
        The time line, or None where there is none.

    Raises:
        RunFolderError: If a line is none of a time line.
    """
    try:
        pieces = [Piece(step, span) for step, span in timeline.read(folder)]
    except TypeError as error:
        raise RunFolderError(
            f"{folder / timeline.FILE}: expected pieces of work, found other lines ({error!r}); "
            "take them out"
        ) from error
    return processes_of(pieces) if pieces else None


def processes_of(pieces: Sequence[Piece]) -> Processes:
    """Sum pieces of work up.

    An actor does one thing at a time: where pieces of a lane overlap, as they do if a clock was set
    back, the time counts once.

    Args:
        pieces: At least one, in the order in which they were written down.

    Returns:
        The time line.
    """
    start = min(piece.span.start for piece in pieces)
    seconds = max(max(piece.span.end for piece in pieces) - start, 0.0)
    lanes = _lanes(pieces)
    spent = {actor: _spent(lane) for actor, lane in lanes.items()}
    stages = _stages(pieces, spent, seconds)
    return Processes(lanes, _steps(pieces, start), stages, _kinds(spent, seconds), seconds)


def trace_events(processes: Processes) -> dict[str, Any]:
    """Return a time line as Chrome trace events, which Perfetto and chrome://tracing open.

    A kind of actors becomes a process, an actor a thread of it; the first process has the steps.

    Args:
        processes: The time line.

    Returns:
        JSON-able; `ts` and `dur` in microseconds, `ts` since the run began.

    Source: Trace Event Format, "JSON Object Format", events of the phases X (complete) and M
        (metadata).
    """
    steps = [_event(f"step {each.number}", each.start, each.end, 0, 0) for each in processes.steps]
    events = [_name(what, "steps", 0, 0) for what in ("process", "thread")] + steps
    kinds = {kind.name: pid for pid, kind in enumerate(processes.kinds, start=1)}
    events += [_name("process", kind, pid, 0) for kind, pid in kinds.items()]
    for tid, (actor, lane) in enumerate(processes.lanes.items(), start=1):
        pid = kinds[_kind(actor)]
        events.append(_name("thread", actor, pid, tid))
        for step, span in lane:
            rate = span.tokens / (span.end - span.start) if span.end > span.start else 0.0
            told = {"tokens": span.tokens, "tokens_per_s": round(rate, 1)} if span.tokens else {}
            event = _event(span.stage, span.start, span.end, pid, tid)
            events.append({**event, "args": {"step": step, **told}})
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"made by": "at2po"}}


def _event(name: str, start: float, end: float, pid: int, tid: int) -> dict[str, Any]:
    begin = round(1e6 * start)
    lasted = max(0, round(1e6 * end) - begin)  # a clock may have been set back
    return {"name": name, "ph": "X", "ts": begin, "dur": lasted, "pid": pid, "tid": tid}


def _name(what: str, name: str, pid: int, tid: int) -> dict[str, Any]:
    event = {"name": f"{what}_name", "ph": "M", "ts": 0, "pid": pid, "tid": tid}
    return {**event, "args": {"name": name}}


def _lanes(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    def by_kind_and_number(actor: str) -> tuple[bool, str, int, str]:
        kind, _, number = actor.partition("-")
        return kind != "driver", kind, len(number), number

    lanes: dict[str, list[Piece]] = {}
    for piece in sorted(pieces, key=_start):
        lanes.setdefault(piece.span.actor, []).append(piece)
    return {actor: lanes[actor] for actor in sorted(lanes, key=by_kind_and_number)}


def _steps(pieces: Sequence[Piece], start: float) -> list[Step]:
    """A step ends with the last piece that was written down with it."""
    blocks = [(step, list(block)) for step, block in groupby(pieces, lambda each: each.step)]
    last = (max(piece.span.end for piece in block) for _, block in blocks)
    ends = list(accumulate(last, max, initial=start))
    return [Step(step, *ends[i : i + 2]) for i, (step, _) in enumerate(blocks)]


def _spent(lane: Sequence[Piece]) -> dict[str, float]:
    """Seconds of an actor in each stage; no second counts twice."""
    spent: dict[str, float] = {}
    reached = lane[0].span.start
    for _, span in lane:
        more = max(0.0, span.end - max(span.start, reached))
        spent[span.stage] = spent.get(span.stage, 0.0) + more
        reached = max(reached, span.end)
    return spent


def _stages(
    pieces: Sequence[Piece], spent: Mapping[str, Mapping[str, float]], seconds: float
) -> list[Stage]:
    found = []
    names = {piece.span.stage for piece in pieces}
    for name in [each for each in STAGES if each in names] + sorted(names - {*STAGES}):
        there = [piece for piece in pieces if piece.span.stage == name]
        tokens = sum(piece.span.tokens for piece in there)
        going_on = _spent(sorted(there, key=_start))[name]
        total = sum(stages.get(name, 0.0) for stages in spent.values())
        rate = tokens / going_on if tokens and going_on else None
        found.append(Stage(name, total, _share(total, seconds * len(spent)), rate))
    return found


def _kind(actor: str) -> str:
    return actor.partition("-")[0]


def _start(piece: Piece) -> float:
    return piece.span.start


def _kinds(spent: Mapping[str, Mapping[str, float]], seconds: float) -> list[Kind]:
    found = []
    for name, actors in groupby(spent, _kind):
        members = [spent[actor] for actor in actors]
        whole = seconds * len(members)
        noted = [(stage, spent_in) for stages in members for stage, spent_in in stages.items()]
        busy = _share(sum(spent_in for stage, spent_in in noted if stage in WORK), whole)
        waiting = _share(sum(spent_in for stage, spent_in in noted if stage not in WORK), whole)
        found.append(Kind(name, len(members), busy, waiting, max(0.0, 1 - busy - waiting)))
    return found


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
