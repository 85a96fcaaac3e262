"""Metrics of a run: one JSON line per step in `metrics.jsonl`, and the same for other trackers.

A line holds `step`, the values in alphabetical order, and last what depends on the machine's speed,
apart under `time`: two runs with the same seed agree in everything else.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from at2po_agents.errors import MetricsError
from at2po_agents.trackers import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.jsonl"
Value = bool | int | float | str


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
        """Write out what is pending and close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()
        if self._tracker is not None:
            self._tracker.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file; a last line that was cut short is left out.

    Args:
        path: A `metrics.jsonl`; a missing file has no rows.

    Raises:
        MetricsError: Another line is no row; the message names file and line.
    """
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["step"] + 0
        except (ValueError, KeyError, TypeError) as error:
            raise MetricsError(
                f'{path}:{number}: expected a JSON object with an integer "step", found '
                f"{line[:80]!r}; restore the file, or move it away to start a new one"
            ) from error
        rows.append(row)
    return rows


def _row(step: int, values: Mapping[str, Value], time: Mapping[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step}
    row |= {name: _finite(values[name]) for name in sorted(values)}
    if non_finite := [name for name in row if row[name] is None]:
        row["non_finite"] = non_finite
    row["time"] = {name: _finite(time[name]) for name in sorted(time)}
    return row


def _finite(value: Value) -> Value | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _truncate(path: Path, keep_through: int) -> None:
    """Drop the rows after a step, all at once: killed in between, the file is as it was."""
    rows = read_metrics(path) if keep_through >= 0 else []
    kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= keep_through]
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(kept), encoding="utf-8")
    os.replace(draft, path)
