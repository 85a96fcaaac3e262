"""What the processes of a run did when, as Chrome trace events: Perfetto shows them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from at2po_agents.monitoring import trace as timeline
from at2po_agents.monitoring.trace import Span
from benchmarks.errors import RunFolderError


def read_trace(folder: Path) -> dict[str, Any] | None:
    """Return the trace events of a run.

    Args:
        folder: Folder of the run.

    Returns:
        As of `trace_events`, or None where there is no time line.

    Raises:
        RunFolderError: If a line is none of a time line.
    """
    try:
        spans = timeline.read(folder)
    except TypeError as error:
        raise RunFolderError(
            f"{folder / timeline.FILE}: expected pieces of work, found other lines ({error!r}); "
            "take them out"
        ) from error
    return trace_events(spans) if spans else None


def trace_events(spans: Sequence[tuple[int, Span]]) -> dict[str, Any]:
    """Return a time line as Chrome trace events.

    A kind of actors becomes a process, an actor a thread of it. The first process has the steps: a
    step ends with the last span that was written down with it, and begins where the one before
    ended; one that was done again after a restart is there twice.

    Args:
        spans: At least one, each with the number of its step, in the order of the file.

    Returns:
        JSON-able; `ts` and `dur` in microseconds, `ts` since the run began.

    Source: Trace Event Format, "JSON Object Format", events of the phases X (complete) and M
        (metadata).
    """
    events = [_name(what, "steps", 0, 0) for what in ("process", "thread")]
    end = min(span.start for _, span in spans)
    for step, block in groupby(spans, itemgetter(0)):
        start, end = end, max(end, *(span.end for _, span in block))
        events.append(_event(f"step {step}", start, end, 0, 0))
    actors = sorted({span.actor for _, span in spans}, key=_by_kind_and_number)
    pids = {kind: pid for pid, (kind, _) in enumerate(groupby(actors, _kind), start=1)}
    events += [_name("process", kind, pid, 0) for kind, pid in pids.items()]
    for tid, actor in enumerate(actors, start=1):
        events.append(_name("thread", actor, pids[_kind(actor)], tid))
        for step, span in sorted(spans, key=lambda each: each[1].start):
            if span.actor == actor:
                event = _event(span.stage, span.start, span.end, pids[_kind(actor)], tid)
                events.append({**event, "args": {"step": step, **_tokens(span)}})
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"made by": "at2po"}}


def _event(name: str, start: float, end: float, pid: int, tid: int) -> dict[str, Any]:
    begin = round(1e6 * start)
    lasted = max(0, round(1e6 * end) - begin)  # a clock may have been set back
    return {"name": name, "ph": "X", "ts": begin, "dur": lasted, "pid": pid, "tid": tid}


def _name(what: str, name: str, pid: int, tid: int) -> dict[str, Any]:
    event = {"name": f"{what}_name", "ph": "M", "ts": 0, "pid": pid, "tid": tid}
    return {**event, "args": {"name": name}}


def _tokens(span: Span) -> dict[str, float]:
    rate = span.tokens / (span.end - span.start) if span.end > span.start else 0.0
    return {"tokens": span.tokens, "tokens_per_s": round(rate, 1)} if span.tokens else {}


def _kind(actor: str) -> str:
    return actor.partition("-")[0]


def _by_kind_and_number(actor: str) -> tuple[bool, str, int, str]:
    kind, _, number = actor.partition("-")
    return kind != "driver", kind, len(number), number
