"""Evaluation of agents on environments, reports of runs, and performance benchmarks."""

from benchmarks.evaluate import Report, evaluate
from benchmarks.suite import SuiteReport, evaluate_suite

__all__ = ["Report", "SuiteReport", "evaluate", "evaluate_suite"]
