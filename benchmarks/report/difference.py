"""Two folders in one report: what became of each question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from benchmarks.errors import RunFolderError
from benchmarks.report.cases import Case, Collection, pair
from benchmarks.report.folders import ReportContent
from benchmarks.report.tiles import Tile


def compared(first: ReportContent, second: ReportContent) -> ReportContent:
    """Put two reports together, question by question.

    Args:
        first: A report.
        second: A report with at least one question of the first.

    Returns:
        The report of what differs.

    Raises:
        RunFolderError: If they have no question in common.
    """
    names = _told_apart(first.name, second.name)
    collections = [Collection(name, names, pair(a, b)) for name, a, b in _matched(first, second)]
    both = [(a, b) for c in collections for a, b in c.pairs if a is not None and b is not None]
    if not both:
        raise RunFolderError(
            f"{first.name} and {second.name}: expected at least one question in both, found none; "
            "name two folders about the same questions"
        )
    sides = list(zip(names, (first, second), strict=True))
    title = f"{names[0]} → {names[1]}"
    return ReportContent(
        name=title,
        title=title,
        lead=f"{first.title} ({first.lead}) → {second.title} ({second.lead})",
        tiles=_changes(both),
        results={f"{s}: {name}": found for s, r in sides for name, found in r.results.items()},
        collections=collections,
        final={},
        details={f"{s}: {name}": text for s, r in sides for name, text in r.details.items()},
    )


def _matched(
    first: ReportContent, second: ReportContent
) -> list[tuple[str, Sequence[Case], Sequence[Case]]]:
    """Cases of the sets that both have by name; all of them where there is no such set."""
    shared = [name for name in first.final if name in second.final]
    if not shared:
        every = [list(chain.from_iterable(report.final.values())) for report in (first, second)]
        return [("", every[0], every[1])]
    return [(name, first.final[name], second.final[name]) for name in shared]


def _changes(both: Sequence[tuple[Case, Case]]) -> list[Tile]:
    was = [[_right(case) for case in cases] for cases in both]
    names = {
        "fixed: wrong, then right": [False, True],
        "broken: right, then wrong": [True, False],
        "right in both": [True, True],
        "wrong in both": [False, False],
    }
    share = [sum(right) / len(both) for right in zip(*was, strict=True)]
    return [
        (f"{share[0]:.1%} → {share[1]:.1%}", f"right, of {len(both):,} questions in both"),
        *((f"{was.count(change):,}", name) for name, change in names.items()),
    ]


def _right(case: Case) -> bool:
    """Whether every episode of a case was right, as in the explorer."""
    return all(leaf["right"] for leaf in case.leaves)


def _told_apart(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first != second else (f"{first} (first)", f"{second} (second)")
