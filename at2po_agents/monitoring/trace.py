"""Time lines: what every process of a run did when; `timeline.jsonl` in the run's folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from at2po_agents.tree import RolloutTree

FILE = "timeline.jsonl"
WORK = ("collect", "eval", "weights", "update", "save")
"""Stages in which an actor works; in all others it waits."""

_AGES = 1e10  # seconds: more than any run takes
_MOST = 1e18  # steps or tokens: more than any run has


class Span(NamedTuple):
    """A piece of work, or of waiting.

    Attributes:
        actor: Who, such as "rollout_worker-0", "learner_worker-1", "rank-0" or "driver".
        stage: What: one of `WORK`, or "wait".
        start: When it began, in seconds since the epoch by the clock of the actor's machine.
        end: When it ended.
        tokens: Tokens sampled or learned from; 0 where that is no measure.
    """

    actor: str
    stage: str
    start: float
    end: float
    tokens: int = 0


def append(folder: Path, step: int, spans: Iterable[Span], origin: float) -> None:
    """Append spans to a run's time line.

    Args:
        folder: Folder of the run.
        step: Number of the step that they belong to.
        spans: The spans.
        origin: When the run began, in seconds since the epoch.
    """
    with (folder / FILE).open("a", encoding="utf-8") as file:
        for span in spans:
            times = {"start": round(span.start - origin, 4), "end": round(span.end - origin, 4)}
            file.write(json.dumps({**span._asdict(), "step": step, **times}) + "\n")


def read(folder: Path) -> list[tuple[int, Span]]:
    """Return the spans of a run's time line, as they were appended.

    A line that was cut short, as by a machine that lost its power, is left out.

    Args:
        folder: Folder of the run; one without a time line has no spans.

    Returns:
        Numbers of the steps, and spans in seconds since the run began.

    Raises:
        TypeError: If a line is something else.
    """
    return [found for line in _lines(folder) if (found := _parsed(line)) is not None]


def last_end(folder: Path) -> float:
    """Return when the last span of a run's time line ended, in seconds since the run began.

    Args:
        folder: Folder of the run; lines that are no spans do not count.
    """
    ends = [0.0]
    for line in _lines(folder):
        with suppress(TypeError):  # a mere record: it keeps no run from going on
            if found := _parsed(line):
                ends.append(found[1].end)
    return max(ends)


def _lines(folder: Path) -> Iterator[str]:
    path = folder / FILE
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file


def _parsed(line: str) -> tuple[int, Span] | None:
    """Return the step and span that a line is; None for one that was cut short."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    except RecursionError:
        row = None
    if isinstance(row, dict) and row.keys() - {"tokens"} == {"step", *Span._fields[:4]}:
        span = Span(row["actor"], row["stage"], row["start"], row["end"], row.get("tokens", 0))
        counts = all(type(n) is int and 0 <= n < _MOST for n in (row["step"], span.tokens))
        texts = all(isinstance(text, str) for text in (span.actor, span.stage))
        times = (type(t) in (int, float) and abs(t) < _AGES for t in (span.start, span.end))
        if counts and texts and all(times):
            return row["step"], span
    raise TypeError(f"expected a piece of a time line, found {line[:80]!r}")


def summarise(spans: Sequence[Span]) -> dict[str, float]:
    """Reduce a step's spans to metrics.

    Args:
        spans: The spans of one step.

    Returns:
        For each kind of actor (`rollout_worker`, `learner_worker`, `rank`): `busy_KIND`, the share
        of the step in which the kind worked, on average. For each kind, the driver too, and each
        stage: `KIND_STAGE_s`, the longest that an actor of the kind spent in it. For collecting and
        updates: `tokens_per_s_STAGE`, tokens over the time from the first beginning of that stage
        to its last end.
    """
    if not spans:
        return {}
    whole = max(span.end for span in spans) - min(span.start for span in spans)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for span in spans:
        spent[span.actor, span.stage] += span.end - span.start
    actors = {actor for actor, _ in spent}
    found: dict[str, float] = {}
    for kind in sorted({actor.split("-")[0] for actor in actors}):
        members = [actor for actor in actors if actor.split("-")[0] == kind]
        busy = sum(spent.get((actor, stage), 0.0) for actor in members for stage in WORK)
        if whole > 0 and kind != "driver":
            found[f"busy_{kind}"] = busy / whole / len(members)
        for stage in sorted({stage for actor, stage in spent if actor in members}):
            found[f"{kind}_{stage}_s"] = max(spent.get((actor, stage), 0.0) for actor in members)
    for stage in ("collect", "update"):
        there = [span for span in spans if span.stage == stage]
        tokens = sum(span.tokens for span in there)
        if tokens:
            lasted = max(span.end for span in there) - min(span.start for span in there)
            found[f"tokens_per_s_{stage}"] = tokens / max(lasted, 1e-9)
    return found


def sampled_tokens(trees: Iterable[RolloutTree]) -> int:
    """Count the tokens that were sampled for trees."""
    return sum(len(node.sampled) for tree in trees for node in tree.nodes())
