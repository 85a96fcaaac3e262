"""What of the paper's Table 1 fits together, and what its gaps show (`at2po paper-check`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rich.table import Table

from benchmarks.paper.table import (
    BAMBOOGLE_TABLE_5,
    CREDIT,
    MULTI_HOP,
    ROUNDING,
    SIZES,
    Average,
    averages,
    standard_error,
)

_OWN, _MODEL = "AT²PO", "Qwen3-4B"


@dataclass(frozen=True, slots=True)
class Lead:
    """How far a method is ahead of the best other one.

    Attributes:
        model: The backbone.
        column: Name of a set, or of an average.
        best: The other method.
        points: The lead, negative where it trails.
        error: Standard error of a difference of two independent runs, in points. On the same
            questions a paired one may be smaller, but needs the outcome of each question; and
            neither counts how much training seeds matter.
    """

    model: str
    column: str
    best: str
    points: Fraction
    error: float

    def within_error(self) -> bool:
        """Return whether it is no more than one standard error."""
        return abs(self.points) <= self.error


def possible(percent: Fraction, questions: int) -> bool:
    """Return whether k right answers of so many questions round to a cell, for any whole k.

    Args:
        percent: The cell.
        questions: Its number of questions. From 10,000 on every cell is possible.
    """
    least = math.ceil((percent - ROUNDING) * questions / 100)
    return least <= math.floor((percent + ROUNDING) * questions / 100)


def leads(table: Sequence[Average], method: str = _OWN) -> Iterator[Lead]:
    """Yield a method's lead over the best other, in every cell and every average.

    Args:
        table: As of `averages`.
        method: Whose lead it is.
    """
    for own in (row for row in table if row.method == method):
        others = [
            row
            for row in table
            if (row.model, row.cells.keys()) == (own.model, own.cells.keys())
            and row.method != method
        ]
        for name, cell in own.cells.items():
            other = max(others, key=lambda row: row.cells[name])
            errors = [standard_error(row.cells[name], SIZES[name]) for row in (own, other)]
            points = cell - other.cells[name]
            yield Lead(own.model, name, other.method, points, math.hypot(*errors))
        other = max(others, key=lambda row: row.reported)
        error = math.hypot(own.standard_error(), other.standard_error())
        points = own.reported - other.reported
        yield Lead(own.model, f"{_kind(own)} average", other.method, points, error)


def report() -> list[Table | str]:
    """Return tables and sentences for a terminal."""
    table = averages()
    return [
        _averages(table),
        *_verdict(table),
        *_bamboogle(table),
        *_impossible(table),
        *_gaps(table),
    ]


def _averages(table: Sequence[Average]) -> Table:
    heads = ("model", "method", "sets", "printed", "micro", "printed - micro", "macro", "")
    shown = Table(*heads, title="Averages of Table 1, recomputed from its cells, %")
    for row in table:
        shown.add_row(
            row.model,
            row.method,
            _kind(row),
            f"{float(row.reported):.2f}",
            f"{float(row.micro):.3f}",
            f"{float(row.reported - row.micro):+.3f}",
            f"{float(row.macro):.2f}",
            "" if row.reproduces() else "differs",
        )
    return shown


def _verdict(table: Sequence[Average]) -> Iterator[str]:
    yield (
        f"{len(table)} averages checked: the multi-hop and the single-hop one of "
        f"{len(table) // 2} rows. They are means over questions (micro), not over sets. Cells and "
        "averages are rounded to 0.005, so rounding explains differences up to 0.010. The rows of "
        "Tables 3 and 5 are not checked: only their averages are at hand."
    )
    for kind in ("multi-hop", "single-hop"):
        rows = [row for row in table if _kind(row) == kind]
        wrong = [row for row in rows if not row.reproduces()]
        below = sum(row.reported < row.micro for row in wrong)
        yield (
            f"{kind}: {len(wrong)} of {len(rows)} do not reproduce, {below} of them printed too "
            "low: "
            + "; ".join(
                f"{row.model} {row.method} {float(row.reported):.2f} for {float(row.micro):.3f}"
                for row in wrong
            )
        )


def _bamboogle(table: Sequence[Average]) -> Iterator[str]:
    own = _run(table)
    other = replace(own, cells={**own.cells, "Bamboogle": BAMBOOGLE_TABLE_5})
    yield (
        f"Bamboogle, {_MODEL} {_OWN}: Table 1 has {float(own.cells['Bamboogle']):.2f}, Table 5 "
        f"{float(BAMBOOGLE_TABLE_5):.2f}. The average printed, {float(own.reported):.2f}, is "
        f"{float(own.micro):.3f} with the one and {float(other.micro):.3f} with the other: the "
        "second rounds to it, the first is within what rounding allows."
    )


def _impossible(table: Sequence[Average]) -> Iterator[str]:
    yield "Cells that are not k/n for any whole k (100 k/n, rounded to two decimals):"
    for name, questions in SIZES.items():
        cells = [row.cells[name] for row in table if name in row.cells]
        wrong = [cell for cell in cells if not possible(cell, questions)]
        if questions >= 100 / (2 * ROUNDING):
            yield f"  {name}: n = {questions:,}, so many that every cell is possible"
            continue
        found = ", ".join(f"{float(cell):.2f}" for cell in sorted(set(wrong))) or "none"
        yield f"  {name}: n = {questions:,}, {len(wrong)} of {len(cells)} cells: {found}"


def _gaps(table: Sequence[Average]) -> Iterator[str]:
    found = list(leads(table))
    small = [lead for lead in found if lead.within_error()]
    yield (
        f"{_OWN} against the best other method: {len(small)} of {len(found)} gaps are within one "
        "standard error of a difference of two independent runs:"
    )
    for lead in small:
        yield (
            f"  {lead.model} {lead.column}: {float(lead.points):+.2f} over {lead.best}, standard "
            f"error {lead.error:.2f}"
        )
    own = _run(table)
    error = math.sqrt(2) * own.standard_error()
    full = max(CREDIT.values())
    near = [name for name, value in CREDIT.items() if 0 < full - value <= error]
    yield (
        f"Credit assignment ({_MODEL}, multi-hop averages, standard error of a difference "
        f"{error:.2f}): within one of the best are {'; '.join(near) or 'none'}."
    )


def _run(table: Sequence[Average]) -> Average:
    """The average that Tables 1 and 5 disagree about, and that the credit ablation starts from."""
    own = (_MODEL, _OWN, "multi-hop")
    return next(row for row in table if (row.model, row.method, _kind(row)) == own)


def _kind(row: Average) -> str:
    return "multi-hop" if row.cells.keys() == MULTI_HOP.keys() else "single-hop"
