"""The command of a measurement: settings from its words, figures into a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tyro

from benchmarks.environment import environment
from retrieval.storage.files import write_whole


class Settings(Protocol):
    """Settings that say where the figures go."""

    @property
    def out(self) -> Path:
        """The file."""


S = TypeVar("S", bound=Settings)
Figures = Mapping[str, Any]


def run(
    module: str,
    settings: type[S],
    measure: Callable[[S], Figures],
    arguments: Sequence[str] | None = None,
    *,
    show: Callable[[Figures], str] | None = None,
) -> None:
    """Measure, write the figures with the machine and its load of the minute before, show them.

    Args:
        module: What `python -m` starts.
        settings: A dataclass of settings.
        measure: Returns JSON-able figures.
        arguments: Words of the command line; None takes the process's own.
        show: What is shown of the figures instead of the whole file.
    """
    config = tyro.cli(settings, prog=f"python -m {module}", args=arguments)
    load = round(os.getloadavg()[0], 2)
    figures = {"load_average": load, **measure(config), "environment": environment()}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2) + "\n"
    write_whole(config.out, text)
    sys.stdout.write(text if show is None else f"{show(figures)}\n")
