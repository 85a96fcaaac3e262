"""How a command ends: wrong input in one message, a stop in two lines, a bug with its traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from types import FrameType
from typing import NoReturn, TextIO

from at2po_agents.cli.terminal import errors
from retrieval.extras import install_advice

WRONG_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
PIPE_CLOSED = 128 + signal.SIGPIPE

# Looked up among the modules that are loaded: what was not imported raised nothing.
_EXPECTED = {
    "at2po_agents.errors": ("AgentError",),
    "at2po_envs.errors": ("At2poEnvError",),
    "retrieval.errors": ("RetrievalError",),
    "benchmarks.errors": ("BenchmarkError",),
    "builtins": ("ValueError", "OSError", "MemoryError"),
    "gymnasium.error": ("Error",),
    "httpx2": ("HTTPError", "InvalidURL"),
    "safetensors": ("SafetensorError",),
    "torch": ("OutOfMemoryError",),
}
"""Classes of errors that input, the machine or a server causes, by module."""


@contextmanager
def ending(prog: str, again: str = "") -> Iterator[None]:
    """Let a command end like one.

    Wrong input, and what the machine or a server refuses, is one message and code 2. SIGINT and
    SIGTERM unwind the command, so that its records say that it was stopped, and are two lines and
    code 130 or 143. A reader that closed the output is nothing to talk about. Anything else is a
    bug: the error is raised again, with a note.

    Args:
        prog: The command, for messages.
        again: How to resume after it was stopped.

    Raises:
        SystemExit: As said above.
    """
    try:
        with _signals_raise():
            yield
    except KeyboardInterrupt:
        _leave(INTERRUPTED, f"{prog}: stopped by Ctrl-C (SIGINT)\n{again}")
    except SystemExit as stop:
        if stop.code in (TERMINATED, signal.SIGTERM):  # the latter is what Ray's handler raises
            _leave(TERMINATED, f"{prog}: stopped by SIGTERM\n{again}")
        raise
    except BrokenPipeError:
        _throw_away(sys.stdout)
        raise SystemExit(PIPE_CLOSED) from None
    except Exception as error:
        if message := _explained(error):
            _leave(WRONG_INPUT, f"at2po: {message}")
        error.add_note(
            f"{prog}: this is a bug in at2po; please report it to the maintainers with the command "
            "and all lines above"
        )
        raise


def _explained(error: Exception) -> str:
    """Return the message for an error that is no bug, or nothing."""
    if isinstance(error, ModuleNotFoundError) and (advice := install_advice(error)):
        return advice
    if isinstance(error, ImportError) and str(error.path).endswith(tuple(EXTENSION_SUFFIXES)):
        return f"expected a library that can be loaded, found: {error}; see at2po doctor --load"
    for module, names in _EXPECTED.items():
        classes = (getattr(sys.modules.get(module), name, None) for name in names)
        if any(isinstance(error, each) for each in classes if each is not None):
            return f"{type(error).__name__}: {error}"
    return ""


def _leave(code: int, message: str) -> NoReturn:
    try:
        errors.print(message.rstrip(), soft_wrap=True)
    except OSError:  # nobody can be told, but by the code
        _throw_away(sys.stderr)
    raise SystemExit(code) from None


def _throw_away(stream: TextIO) -> None:
    """Have what a stream still holds go nowhere: Python writes it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn signals into exceptions, so that contexts are left and records are written."""
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _raise)}
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # a command in the background ignores it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
