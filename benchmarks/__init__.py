"""Evaluation of agents on environments, reports of runs, and performance benchmarks."""

from benchmarks.evaluate import Report, evaluate

__all__ = ["Report", "evaluate"]
