"""Evaluation of agents on environments, reports of runs, and performance benchmarks."""

from benchmarks.evaluation.evaluate import Report, evaluate
from benchmarks.evaluation.suite import SuiteReport, evaluate_suite

__all__ = ["Report", "SuiteReport", "evaluate", "evaluate_suite"]
