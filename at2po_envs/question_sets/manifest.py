"""The question sets as published, and in what a local copy differs from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from at2po_envs.errors import DataFormatError
from at2po_envs.question_sets.questions import PUBLISHED, question_of, questions_folder
from retrieval.corpus.jsonl import object_of, read_lines

_SHOWN = 5
"""Bad rows of a split that are described one by one."""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split of one set, as published and as found.

    Attributes:
        set_name: A key of `PUBLISHED`.
        split: Name of the split.
        published: Rows as published, None if there is no such split.
        found: Rows found, bad ones included, None if there is no file.
        faults: What is wrong with single rows: the first few described, the rest counted.
    """

    set_name: str
    split: str
    published: int | None
    found: int | None
    faults: tuple[str, ...] = ()

    @property
    def difference(self) -> str:
        """How the number of rows differs from the published one, empty if it does not."""
        if self.found is None:
            return f"missing: {self.published:,} rows are published"
        if self.published is None:
            return f"not published: {self.found:,} rows of another origin, such as a sample"
        if self.found < self.published:
            return f"partial copy: {self.found:,} of {self.published:,} published rows"
        if self.found > self.published:
            return f"too long: {self.found:,} rows where {self.published:,} are published"
        return ""


def survey(root: str | Path | None = None) -> list[SplitReport]:
    """Count and check the rows of every published split and of every further file.

    Args:
        root: Folder that holds `questions/<set>/<split>.jsonl`; None for `$AT2PO_DATA`.

    Returns:
        One report a split, set by set.

    Raises:
        DataNotFoundError: If there is no such folder.
    """
    folder = questions_folder(root)
    reports = []
    for set_name, published in PUBLISHED.items():
        files = {file.stem: file for file in sorted((folder / set_name).glob("*.jsonl"))}
        for split in dict.fromkeys([*published, *files]):
            found, faults = _check(files[split]) if split in files else (None, ())
            reports.append(SplitReport(set_name, split, published.get(split), found, faults))
    return reports


def verify(root: str | Path | None = None) -> list[str]:
    """Compare a local copy of the question sets with the published ones.

    Args:
        root: Folder that holds `questions/<set>/<split>.jsonl`; None for `$AT2PO_DATA`.

    Returns:
        One line for each difference, starting with `<set>/<split>:`: a missing split, another
        number of rows (a partial copy is named as such), a malformed row, an id that occurs twice.
        Empty for a complete copy.

    Raises:
        DataNotFoundError: If there is no such folder.
    """
    return [
        f"{report.set_name}/{report.split}: {line}"
        for report in survey(root)
        for line in (report.difference, *report.faults)
        if line
    ]


def _check(file: Path) -> tuple[int, tuple[str, ...]]:
    """Return the number of rows in a file and what is wrong with them."""
    rows, more = 0, 0
    faults: list[str] = []
    for rows, fault in enumerate(_faults(file), start=1):  # noqa: B007 (the last value counts)
        if fault and len(faults) < _SHOWN:
            faults.append(fault)
        elif fault:
            more += 1
    return rows, (*faults, f"{more:,} more bad rows") if more else tuple(faults)


def _faults(file: Path) -> Iterator[str]:
    """Yield what is wrong with each row, an empty string where nothing is."""
    lines: dict[str, int] = {}
    for number, line in read_lines(file, DataFormatError):
        where = f"{file.name}:{number}"
        try:
            row = object_of(line, where, "a JSON object", DataFormatError)
            question = question_of(row, where)
        except DataFormatError as error:
            yield str(error)
            continue
        earlier = lines.setdefault(question.id, number)
        again = f"{where}: expected a new id, found {question.id!r} of line {earlier}"
        yield again if earlier != number else ""
