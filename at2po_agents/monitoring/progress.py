"""Progress of a run: a live line on a terminal, plain log lines anywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_log = logging.getLogger(__name__)


class RunProgress:
    """Shows step, latest figures, tokens per second and time left; a context manager.

    Args:
        steps: Steps of the whole run, at least 0.
        done: Steps that were done before, in a run that is resumed.
        quiet: Show nothing: another process shows the same.
        console: Where to show it; by default standard error, so that output stays clean.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        steps: int,
        *,
        done: int = 0,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = steps
        self._done = done
        self._quiet = quiet
        self._clock = clock
        self._start = clock()
        self._tokens = 0
        console = console or Console(stderr=True)
        self._live: Progress | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("train"), BarColumn(bar_width=20))
            line = TextColumn("{task.description}", markup=False)
            self._live = Progress(*columns, line, console=console)
            self._task = self._live.add_task("starting", total=steps, completed=done)

    def update(self, step: int, *, tokens: int, figures: Mapping[str, float]) -> None:
        """Show that a step is done.

        Args:
            step: Steps done so far, those of an earlier session included.
            tokens: Tokens sampled in this step.
            figures: Latest values by short names like "em", in the order to show them.
        """
        if self._quiet:
            return
        self._tokens += tokens
        line = self._line(step, figures)
        if self._live is None:
            _log.info("train %s", line)
        else:
            self._live.update(self._task, completed=step, description=line)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _line(self, step: int, figures: Mapping[str, float]) -> str:
        elapsed = self._clock() - self._start
        parts = [f"step {step}/{self._steps}"]
        parts += [f"{name} {value:.3f}" for name, value in figures.items()]
        if elapsed > 0:
            parts.append(f"{self._tokens / elapsed:,.0f} tokens/s")
        if step > self._done:
            left = elapsed / (step - self._done) * (self._steps - step)
            parts.append(f"{timedelta(seconds=round(left))} left")
        return " · ".join(parts)
