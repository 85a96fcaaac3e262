"""Metrics of a run: one JSON line per step in `metrics.jsonl`, and the same for other trackers.

A line holds `step`, the values in alphabetical order, and last what depends on the machine's speed,
apart under `time`: two runs with the same seed agree in everything else.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from at2po_agents.errors import MetricsError
from at2po_agents.monitoring.trackers import Tracker
from retrieval.storage.files import require_file, write_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
Value = bool | int | float | str
Row = dict[str, Any]
"""A row of `metrics.jsonl`, as JSON has it."""


class MetricsLog:
    """Appends a run's metrics, one row per step; a context manager.

    Args:
        run_dir: Folder of the run; made if missing.
        keep_through: Rows up to this step are kept and later ones dropped, so that a resumed run
            repeats none; -1 starts afresh.
        tensorboard: Also write event files to `run_dir/tensorboard`.
        tracker: Also gets every row; finished when the log is closed.

    Raises:
        MetricsError: A row to be kept is damaged.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        keep_through: int = -1,
        tensorboard: bool = True,
        tracker: Tracker | None = None,
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._folder = run_dir
        self._last = keep_through
        self._tensorboard, self._tracker = tensorboard, tracker
        self._events: SummaryWriter | None = None
        _truncate(run_dir / FILE, keep_through)
        self._file = (run_dir / FILE).open("a", encoding="utf-8")

    def write(
        self, step: int, values: Mapping[str, Value], time: Mapping[str, float] | None = None
    ) -> None:
        """Append the row of a step.

        A number that is NaN or infinite is written as null, its name under `non_finite`.

        Args:
            step: Greater than that of the row before.
            values: What the step has shown, by names like "rollout/reward_mean".
            time: Durations in seconds and rates per second.

        Raises:
            MetricsError: The step does not come after the one before, or a name is reserved.
        """
        if step <= self._last:
            raise MetricsError(
                f"step: expected more than {self._last}, the last one in {self._folder / FILE}, "
                f"found {step}; to write a step again, open the log with keep_through={step - 1}"
            )
        if reserved := {"step", "time", "non_finite"} & values.keys():
            raise MetricsError(
                f"values: expected names other than {sorted(reserved)}, which the row itself uses; "
                "write them with a prefix, as in 'train/time'"
            )
        self._file.write(json.dumps(_row(step, values, time or {}), allow_nan=False) + "\n")
        self._file.flush()
        self._last = step
        shown = {**values, **{f"time/{name}": value for name, value in (time or {}).items()}}
        if self._tensorboard:
            self._write_events(step, shown)
        if self._tracker is not None:
            self._tracker.log(shown, step=step)

    def close(self) -> None:
        """Write out what is pending and close the files, each of them whatever befalls another."""
        with ExitStack() as ends:
            if self._tracker is not None:
                ends.callback(self._tracker.finish)
            if self._events is not None:
                ends.callback(self._events.close)
            ends.callback(self._file.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_events(self, step: int, values: Mapping[str, Value]) -> None:
        if self._events is None:
            # Late: importing TensorBoard takes seconds.
            from torch.utils.tensorboard import SummaryWriter

            folder = self._folder / "tensorboard"
            self._events = SummaryWriter(str(folder), purge_step=step, flush_secs=10)
        for name, value in values.items():
            if not isinstance(value, str):
                self._events.add_scalar(name, value, step)


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics file; a last line that was cut short is left out.

    Args:
        path: A `metrics.jsonl`; a missing file has no rows.

    Raises:
        MetricsError: Another line is no row, or its step does not come after the one before; the
            message names file and line.
    """
    return [row for row, _ in _read(path)]


def _read(path: Path) -> list[tuple[Row, str]]:
    """Return the rows of a metrics file, each with its line."""
    try:
        require_file(path)
        *lines, last_line = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MetricsError(
            f"{path}: expected a metrics file, found: {error}; move it away"
        ) from error
    if _parsed(last_line) is not None:  # whole, if without its end: an editor left that out
        lines.append(last_line)
    rows: list[tuple[Row, str]] = []
    last = -1
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if row is None or row["step"] <= last:
            raise MetricsError(
                f'{path}:{number}: expected a JSON object with an integer "step" of more than '
                f"{last}, found {line[:80]!r}; restore the file, or remove the line"
            )
        last = row["step"]
        rows.append((row, line))
    return rows


def _parsed(line: str) -> Row | None:
    """Return the row that a line is, or None."""
    try:
        row = json.loads(line, parse_constant=_refused)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(row, dict) and type(row.get("step")) is int):
        return None
    return row


def _refused(constant: str) -> None:
    raise ValueError(f"expected numbers as JSON has them, found {constant}")


def _row(step: int, values: Mapping[str, Value], time: Mapping[str, float]) -> Row:
    row: Row = {"step": step}
    row |= {name: _finite(values[name]) for name in sorted(values)}
    if non_finite := [name for name in row if row[name] is None]:
        row["non_finite"] = non_finite
    row["time"] = {name: _finite(time[name]) for name in sorted(time)}
    return row


def _finite(value: Value) -> Value | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _truncate(path: Path, keep_through: int) -> None:
    """Drop the rows after a step, all at once: killed in between, the file is as it was."""
    rows = _read(path) if keep_through >= 0 else []
    kept = [(row["step"], line + "\n") for row, line in rows if row["step"] <= keep_through]
    if keep_through >= 0 and keep_through != (last := kept[-1][0] if kept else -1):
        _log.warning("%s: expected rows up to step %d, found %d", path, keep_through, last)
    write_whole(path, "".join(line for _, line in kept))
