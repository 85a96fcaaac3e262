"""Errors raised on wrong input; each states what was expected, what was found, and the fix."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Base class of all errors of this package."""


class EvaluationError(BenchmarkError, ValueError):
    """An evaluation cannot be run as it was asked for."""


class ReplyError(BenchmarkError, ValueError):
    """An agent did not give one turn for each episode."""


class RunFolderError(BenchmarkError, ValueError):
    """A folder does not hold the training run that a report needs."""


class ComparisonError(BenchmarkError, ValueError):
    """Evaluations, or figures of them, cannot be compared as they are."""
