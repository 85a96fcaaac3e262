"""Errors of the environments; each message says what was expected, what was found, the fix."""

from __future__ import annotations


class At2poEnvError(Exception):
    """Base of every error that this package raises on purpose."""


class DataNotFoundError(At2poEnvError, FileNotFoundError):
    """Questions or passages are in none of the places where they may be."""


class DataFormatError(At2poEnvError, ValueError):
    """A record of a data file is malformed."""


class UnknownNameError(At2poEnvError, ValueError):
    """A name (of a question set, question, option, prompt) is not known."""


class InvalidActionError(At2poEnvError, TypeError):
    """An action is not a string."""


class EpisodeOverError(At2poEnvError, RuntimeError):
    """A step was asked of an episode that has ended."""


class SnapshotError(At2poEnvError, ValueError):
    """A snapshot is not one of this environment."""


class OutcomeError(At2poEnvError, ValueError):
    """The end of an episode does not say how it went."""


class ToolResultError(At2poEnvError, ValueError):
    """The tool results handed to a transition do not answer its pending calls."""
