"""A report as one HTML page that needs nothing else and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment
from markupsafe import Markup

from benchmarks.curves import inline_curves
from benchmarks.report.folders import ReportContent
from benchmarks.report.page_data import embed

SCRIPTS = ("data.js", "reading.js", "drawing.js", "tree.js", "questions.js", "explorer.js")
"""The explorer, in the order in which its parts are read."""

FOOTER = "<footer>Made by at2po."
"""Beginning of the last line that is shown; only pages of ours hold it as markup."""

TRACE = "trace.json"
"""The file beside the page of a run that holds its trace events."""

_COLUMNS = (
    ("questions", "questions", "{:,d}"),
    ("EM", "em", "{:.1%}"),
    ("F1", "f1", "{:.3f}"),
    ("cover-EM", "cover_em", "{:.1%}"),
    ("format", "format_rate", "{:.1%}"),
    ("recall", "retrieval_recall", "{:.1%}"),
    ("searches", "searches", "{:.2f}"),
    ("turns", "turns", "{:.2f}"),
)
"""Heading, figure of an evaluation, and its format."""

_STATES = {
    "running": "It was at work, or had been killed, when this page was written.",
    "paused": "Its tools are unavailable; nothing is wrong with the run: resume it with --resume.",
    "stopped": "It was stopped by its user; resume it with --resume.",
    "diverged": "Too many steps in a row gave a loss or gradient that was not finite.",
    "failed": "It ended with an error; once that is mended, resume it with --resume.",
}
"""What the states of a run mean."""


def page(report: ReportContent) -> str:
    """Return the page of a report.

    Args:
        report: What it shows.

    Returns:
        HTML. Its scripts and style are the package's own, known to the page's content security
        policy by their hashes; the template escapes every text of the report.
    """
    style = _asset("style.css")
    scripts = [_asset(name) for name in SCRIPTS]
    results = report.results.values()
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["utc"] = _utc
    return environment.from_string(_asset("page.html")).render(
        report=report,
        columns=[each for each in _COLUMNS if any(each[1] in figures for figures in results)],
        states=_STATES,
        curves=map(Markup, inline_curves(report.curve)) if report.curve else (),
        trace_file=TRACE,
        data=Markup(embed(report.collections)),
        footer=Markup(FOOTER),
        policy=Markup(_policy(scripts, style)),
        style=Markup(style),
        scripts=map(Markup, scripts),
    )


def _asset(name: str) -> str:
    return (files("benchmarks.report") / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    """Forbid everything but the page's own scripts and style.

    The drawing of a curve sets the style of its parts by attributes, which no script reads.
    """
    known = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {known}; "
        f"style-src-elem {_hash(style)}; style-src-attr 'unsafe-inline'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
