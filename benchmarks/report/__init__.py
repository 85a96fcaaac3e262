"""Reports: a training run, an evaluation or a folder of trees as one HTML file."""

from benchmarks.report.write import ReportOptions, write_difference, write_report, write_reports

__all__ = ["ReportOptions", "write_difference", "write_report", "write_reports"]
