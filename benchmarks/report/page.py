"""A report as one HTML page that needs nothing else and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from benchmarks.curves import inline_curves
from benchmarks.evaluation.records import Record
from benchmarks.report.embedding import embed
from benchmarks.report.folders import Report
from benchmarks.report.run_sections import happened, processes_section, work_section
from benchmarks.report.tiles import Tile

SCRIPTS = ("data.js", "reading.js", "drawing.js", "tree.js", "questions.js", "explorer.js")
"""The explorer, in the order in which its parts are read."""

_COLUMNS = (
    ("questions", "questions", ",d"),
    ("EM", "em", ".1%"),
    ("F1", "f1", ".3f"),
    ("cover-EM", "cover_em", ".1%"),
    ("format", "format_rate", ".1%"),
    ("recall", "retrieval_recall", ".1%"),
    ("searches", "searches", ".2f"),
    ("turns", "turns", ".2f"),
)
"""Heading, figure of an evaluation, and its format."""


FOOTER = "<footer>Made by at2po."
"""Beginning of the last line that is shown; only pages of ours hold it as markup."""


def page(report: Report) -> str:
    """Return the page of a report.

    Args:
        report: What it shows.

    Returns:
        HTML. Its scripts and style are the package's own, known to the page's content security
        policy by their hashes; every text of the report is escaped, or put in place as text.
    """
    style = _asset("style.css")
    scripts = [_asset(name) for name in SCRIPTS]
    body = "".join(
        (
            _head(report),
            happened(report.status),
            _results(report.results),
            _curves(report.curve),
            processes_section(report.processes),
            work_section(report.curve),
            _asset("explorer.html"),
            _details(report.details),
            f"{FOOTER} Nothing on this page is loaded from elsewhere.</footer>",
            embed(report.collections),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts, style)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{style}</style></head><body>{body}"
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
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


def _head(report: Report) -> str:
    return (
        f'<header><h1>{escape(report.title)}</h1><p class="lead">{escape(report.lead)}</p></header>'
        f"{_tiles(report.tiles)}"
    )


def _tiles(figures: Sequence[Tile]) -> str:
    """Show figures with their names, side by side, the first one large."""
    boxes = "".join(
        f'<div class="tile{"" if place else " main"}"><b>{escape(value)}</b>'
        f"<span>{escape(name)}</span></div>"
        for place, (value, name) in enumerate(figures)
    )
    return f'<div class="tiles">{boxes}</div>'


def _results(results: Mapping[str, Record]) -> str:
    shown = [
        column for column in _COLUMNS if any(column[1] in figures for figures in results.values())
    ]
    if not shown:
        return ""
    heads = "".join(f'<th scope="col">{heading}</th>' for heading, _, _ in shown)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_whisker(figures)}</td>'
        + "".join(f"<td>{_cell(figures, key, form)}</td>" for _, key, form in shown)
        + "</tr>"
        for name, figures in results.items()
    )
    return (
        "<section><h2>Results</h2><p>Means over the questions, with 95 % intervals in brackets "
        'and drawn for exact match on a line from 0 to 100 %.</p><div class="scroll"><table>'
        f'<thead><tr><td></td><th scope="col">0 – 100 %</th>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></section>"
    )


def _cell(figures: Record, key: str, form: str) -> str:
    value, interval = figures.get(key), figures.get(f"{key}_interval")
    if value is None:
        return "–"
    low_high = f" <small>[{interval[0]:{form}}, {interval[1]:{form}}]</small>" if interval else ""
    return f"{value:{form}}{low_high}"


def _whisker(figures: Record) -> str:
    """Draw exact match and its interval."""
    if figures.get("em") is None:
        return ""
    em = figures["em"]
    low, high = figures.get("em_interval") or (em, em)
    return (
        '<svg class="whisker" viewBox="-4 0 108 12" aria-hidden="true">'
        '<path class="axis" d="M0 6H100M0 3V9M50 4V8M100 3V9"/>'
        f'<path d="M{100 * low:.1f} 6H{100 * high:.1f}"/>'
        f'<circle cx="{100 * em:.1f}" cy="6" r="3"/></svg>'
    )


def _curves(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    return (
        "<section><h2>Learning curve</h2><p>Greedy exact match on the evaluation questions, with "
        "its 95 % Wilson interval, and the exact match of the sampled training rollouts.</p>"
        f'<div class="charts">{"".join(inline_curves(rows))}</div></section>'
    )


def _details(details: Mapping[str, str]) -> str:
    return "".join(
        f'<section class="config"><details><summary><h2>{escape(heading)}</h2></summary>'
        f'<pre tabindex="0">{escape(text)}</pre></details></section>'
        for heading, text in details.items()
    )
