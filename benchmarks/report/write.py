"""Write a report: of one folder, or of two with the same questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from benchmarks.curves import save_curves
from benchmarks.report.difference import compared
from benchmarks.report.folders import read
from benchmarks.report.page import FOOTER, TRACE, page
from retrieval.storage.files import replace_own


@dataclass(frozen=True)
class ReportOptions:
    """Write a folder's report, or what became of each question from one folder to another."""

    folder: Positional[Path]
    """A training run, an evaluation, or a folder of rollout trees (`*.jsonl`)."""
    other: Positional[Path | None] = None
    """A second one, to be compared with the first."""
    out: Path | None = None
    """The file; by default `report.html` in the folder, or `difference.html` in the other one."""


def write_reports(options: ReportOptions) -> Path:
    """Write the report that the options ask for, and return its path."""
    if options.other is None:
        return write_report(options.folder, options.out)
    return write_difference(options.folder, options.other, options.out)


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a training run, an evaluation or a folder of trees.

    Beside a training run its learning curve is written, too, as `learning_curve.svg`, and what its
    processes did when as `trace.json`.

    Args:
        folder: The folder.
        out: The file, `report.html` in the folder by default. An earlier page there is replaced,
            anything else renamed.

    Returns:
        Path of the file.

    Raises:
        RunFolderError: If the folder is none of these, incomplete or damaged.
    """
    report = read(folder)
    if report.curve:
        save_curves(report.curve, folder / "learning_curve.svg")
    if report.trace:
        replace_own(folder / TRACE, json.dumps(report.trace), '"made by": "at2po"')
    path = out or folder / "report.html"
    replace_own(path, page(report), FOOTER)
    return path


def write_difference(first: Path, second: Path, out: Path | None = None) -> Path:
    """Write what became of each question from one folder to another.

    Args:
        first: A training run (its last evaluation counts), an evaluation, or a folder of trees.
        second: Another of these, with at least one question of the first.
        out: The file, `difference.html` in the second folder by default; as for `write_report`.

    Returns:
        Path of the file.

    Raises:
        RunFolderError: If a folder is none of these, or they have no question in common.
    """
    path = out or second / "difference.html"
    replace_own(path, page(compared(read(first), read(second))), FOOTER)
    return path
