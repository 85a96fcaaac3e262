"""`python -m benchmarks.report FOLDER [OTHER]`."""

from __future__ import annotations

import sys

import tyro

from benchmarks.errors import RunFolderError
from benchmarks.report.write import ReportOptions, write_reports

if __name__ == "__main__":
    try:
        path = write_reports(tyro.cli(ReportOptions, prog="python -m benchmarks.report"))
    except RunFolderError as error:
        sys.exit(f"benchmarks.report: {error}")
    sys.stdout.write(f"{path}\n")
