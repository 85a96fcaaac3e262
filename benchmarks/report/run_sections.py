"""The parts of a training run's page that say how it went, and what its processes did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from benchmarks.evaluation.records import Record
from benchmarks.report.processes import TRACE, Processes
from benchmarks.report.work import work_charts

_STATES = {
    "running": "It was at work, or had been killed without a word, when this page was written.",
    "finished": "",
    "paused": "Its tools are away; nothing is wrong with the run: it goes on with --resume.",
    "stopped": "It was stopped by its user; it goes on with --resume.",
    "diverged": "Too many steps in a row gave a loss or gradient that was not finite.",
    "failed": "It ended with an error; once that is mended it goes on with --resume.",
}
"""What the states of a run mean."""


def happened(status: Record | None) -> str:
    """Return the section about how a run stands and what went wrong.

    Args:
        status: Content of `status.json`; None gives no section.

    Returns:
        HTML.
    """
    if status is None:
        return ""
    state, faults = status["state"], status["faults"]
    well = state == "finished" and not faults
    words = [
        f"<b>{escape(state.capitalize())}</b> at step {status['step']},",
        f"{_time(status['updated'])}.",
        "Nothing went wrong." if well else _STATES.get(state, ""),
    ]
    why = f'<pre tabindex="0">{escape(status["why"])}</pre>' if status["why"] else ""
    heads = ("time", "step", "process", "what happened", "what was done")
    lines = [[_time(f["time"]), f["step"], f["actor"], f["what"], f["done"]] for f in faults]
    table = f'<div class="words">{_table(heads, lines)}</div>' if faults else ""
    return (
        '<section id="happened"><h2>What happened</h2>'
        f"<p>{' '.join(filter(None, words))}</p>{why}{table}</section>"
    )


def processes_section(processes: Processes | None) -> str:
    """Return the section about what the processes of a run did when.

    Args:
        processes: Their time line; None gives no section.

    Returns:
        HTML.
    """
    if processes is None:
        return ""
    stages = [
        (stage.name, f"{stage.seconds:,.1f}", f"{stage.share:.1%}", _rate(stage.tokens_per_s))
        for stage in processes.stages
    ]
    rest = max(0.0, 1 - sum(stage.share for stage in processes.stages))
    unnoted = f"{rest * processes.seconds * len(processes.lanes):,.1f}"
    kinds = [
        (kind.name, kind.actors, f"{kind.busy:.1%}", f"{kind.waiting:.1%}", f"{kind.idle:.1%}")
        for kind in processes.kinds
    ]
    numbers = [step.number for step in processes.steps]
    twice = " Steps that were done again are in it twice." if len(numbers) > len({*numbers}) else ""
    return (
        f'<section id="processes"><h2>Processes</h2><p>What {len(processes.lanes)} processes did '
        f"in {processes.seconds:,.1f} seconds.{twice} To see when they did it, open "
        f"<code>{TRACE}</code>, beside the run's other files, in <code>ui.perfetto.dev</code> "
        "(it stays on your machine) or <code>chrome://tracing</code>.</p>"
        '<div class="tables"><div><h3>Stages</h3>'
        + _table(
            ("stage", "seconds", "share of time", "tokens/s"),
            [*stages, ("nothing noted", unnoted, f"{rest:.1%}", "–")],
        )
        + '<p class="note">Seconds are summed over the processes. Tokens per second are those '
        "while at least one process was in the stage.</p></div><div><h3>Kinds of processes</h3>"
        + _table(("kind", "processes", "busy", "waiting", "idle"), kinds)
        + '<p class="note">Waiting is time for which a process noted that it waited for others, '
        "idle is time for which it noted nothing, as a rollout worker does without a job.</p>"
        "</div></div></section>"
    )


def work_section(rows: Sequence[Record]) -> str:
    """Return the section of charts of how the processes worked, where rows have such figures.

    Args:
        rows: Rows of `metrics.jsonl`.

    Returns:
        HTML.
    """
    charts = "".join(work_charts(rows))
    if not charts:
        return ""
    return (
        '<section id="work"><h2>Work over steps</h2><p>How busy the processes of each kind were, '
        "how much waited for them, and how old the trees that the policy learned from.</p>"
        f'<div class="charts">{charts}</div></section>'
    )


def _table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table whose first column names its rows."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        f"{''.join(f'<td>{escape(str(cell))}</td>' for cell in rest)}</tr>"
        for first, *rest in lines
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _rate(tokens_per_s: float | None) -> str:
    return "–" if tokens_per_s is None else f"{tokens_per_s:,.1f}"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
