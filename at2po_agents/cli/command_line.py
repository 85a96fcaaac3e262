"""Picking a command and running it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from rich.logging import RichHandler

from at2po_agents import threads
from at2po_agents.cli.endings import ending
from at2po_agents.cli.terminal import HELP, errors, out, pick

_LEAST_COLUMNS = 20  # tyro needs 6 to end at all


@dataclass(frozen=True)
class Command:
    """A command, not yet imported.

    Attributes:
        place: `module:function` of the function, which takes the words after the command's name.
        about: What the command does.
        again: How to resume after it was stopped.
        computes: Whether it runs a model, or may.
    """

    place: str
    about: str
    again: str = "the same command does it again"
    computes: bool = False

    def run(self, arguments: Sequence[str]) -> None:
        """Import the command and run it."""
        module, _, function = self.place.partition(":")
        getattr(import_module(f"at2po_agents.cli.{module}"), function)(arguments)


_RESUME = "the same command with --resume goes on from the last checkpoint, if there is one"
_RESUMED = "the same command goes on where it stopped"

COMMANDS = {
    "train": Command("training:train", "Train a search agent.", _RESUME, computes=True),
    "eval": Command(
        "evaluating:evaluate",
        "Evaluate an agent and write its episodes and their summary.",
        _RESUMED,
        computes=True,
    ),
    "compare": Command(
        "evaluating:compare",
        "Compare evaluations on the same questions: differences, tests, what can be concluded.",
    ),
    "paper-check": Command(
        "evaluating:paper_check",
        "Recompute the averages of the paper's Table 1 and list figures that do not fit together.",
    ),
    "report": Command(
        "evaluating:report",
        "Write the report of a training run, an evaluation or trees, or what differs between two.",
    ),
    "rollout": Command("training:rollout", "Grow one tree and print it.", computes=True),
    "data": Command(
        "retrieving:data",
        "Look at local question sets: `list` them, or `verify` them against what is published.",
    ),
    "export": Command(
        "exporting:export",
        "Write a checkpoint's model as a plain folder, for evaluations, servers, other trainers.",
    ),
    "index": Command(
        "retrieving:index",
        "Retrieval indexes: `build` one, say what one is (`info`), `search` with one.",
        "an earlier index is as it was; the same command builds the new one again",
    ),
    "serve": Command(
        "retrieving:serve",
        "Serve a retriever over HTTP, to Search-R1's clients and ours.",
        "the same command serves again",
    ),
    "demo": Command(
        "training:demo",
        "Train the embedded model on the embedded world and write a report.",
        _RESUME,
        computes=True,
    ),
    "doctor": Command(
        "installation:doctor",
        "Check this installation, or with --plan whether a training fits on GPUs.",
    ),
    "warmstart": Command(
        "training:warmstart",
        "Make the mini model from nothing: tokenizer, demonstrations, supervised training.",
        computes=True,
    ),
}
"""Sub-commands of `at2po`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; see `endings` for how it ends.

    Args:
        arguments: Words after `at2po`; None takes the process's own.

    Raises:
        SystemExit: With code 2 on wrong input, 1 where a check failed, 130 or 143 if stopped.
    """
    _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    with ending("at2po"):
        name, rest = pick("at2po", {name: each.about for name, each in COMMANDS.items()}, words)
    _log_to_terminal()
    if COMMANDS[name].computes and HELP.isdisjoint(rest):
        threads.choose()
    with ending(f"at2po {name}", COMMANDS[name].again):
        COMMANDS[name].run(rest)


def _prepare_streams() -> None:
    """Have streams that take whatever is printed, also if they were closed, or are very narrow."""
    number = -1
    while number < 3:  # a file would else be opened as the output, and get what is printed
        number = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(number, number < 3)
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if min(out.width, shutil.get_terminal_size().columns) < _LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(_LEAST_COLUMNS)
        out.width = errors.width = _LEAST_COLUMNS


def log_handler() -> logging.Handler:
    """Return what shows log messages, which may hold text of others, too."""
    return RichHandler(console=errors, show_path=False)


def _log_to_terminal() -> None:
    # The ranks of torchrun do the same; what only one of them has to say is at least a warning.
    first = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if first else logging.WARNING
    if not first:  # read by transformers and its hub when they are loaded
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.basicConfig(level=level, format="%(message)s", handlers=[log_handler()])
    for noisy in ("bm25s", "httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
