"""Errors of the environments; each message says what was expected, what was found, the fix."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from retrieval.errors import nearest


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


def check_known(what: str, name: object, known: Iterable[str]) -> None:
    """Raise UnknownNameError unless a name is known.

    Args:
        what: What it names, for the message, such as `"the prompt"`.
        name: What was given.
        known: The names there are.
    """
    names = tuple(known)
    if name not in names:
        raise UnknownNameError(
            f"expected {what}, one of {', '.join(names)}, found {name!r}; "
            + nearest(str(name), names)
        )


def check_integer(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """Return an integer as one of Python's, whose `repr` goes into hashes.

    Args:
        name: Of the setting, for the message.
        value: An integer of Python or NumPy.
        low: The least that is allowed, None for any.
        high: The greatest that is allowed, None for any.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if (low is None or low <= number) and (high is None or number <= high):
            return number
    bounds = "" if low is None else f" >= {low}" if high is None else f" from {low} to {high:,}"
    raise ValueError(f"{name}: expected an integer{bounds}, found {value!r}")
