"""How a run stands, and what happened to it: `status.json` in its folder, always whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from at2po_agents.errors import DivergedError, ToolsAwayError

FILE = "status.json"
State = Literal["running", "finished", "paused", "stopped", "diverged", "failed"]


class RunStatus:
    """Keeps `status.json`; a context manager that writes how the run ended.

    States: running; finished; paused (tools are away: nothing is wrong with the run); stopped (by
    the user); diverged; failed. A process that was killed leaves "running": the next one to resume
    the run finds that, and notes it among the faults.

    Args:
        folder: Folder of the run.
        resumed: Whether the run goes on; its faults so far are kept.
    """

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        self._path = folder / FILE
        before = _read(self._path) if resumed else {}
        self.faults: list[dict[str, Any]] = list(before.get("faults", []))
        self._step = int(before.get("step", 0))
        if before.get("state") == "running":
            self.fault("driver", "ended without a word", "resumed")

    def fault(self, actor: str, what: str, done: str) -> None:
        """Note something that went wrong.

        Args:
            actor: The process, such as "collector-1".
            what: What happened to it.
            done: What was done about it.
        """
        entry = {"time": round(time.time(), 1), "step": self._step, "actor": actor}
        self.faults.append({**entry, "what": what, "done": done})

    def update(self, step: int) -> None:
        """Note that the run goes on.

        Args:
            step: Training steps done.
        """
        self._step = step
        self._write("running", "")

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write("running", "")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        states: Mapping[type[BaseException], State] = {
            ToolsAwayError: "paused",
            DivergedError: "diverged",
            KeyboardInterrupt: "stopped",
        }
        state = "finished" if kind is None else states.get(kind, "failed")
        self._write(state, str(error or ""))

    def _write(self, state: State, why: str) -> None:
        facts = {"state": state, "step": self._step, "why": why, "updated": round(time.time(), 1)}
        text = json.dumps({**facts, "pid": os.getpid(), "faults": self.faults}, indent=2)
        draft = self._path.with_suffix(".tmp")
        draft.write_text(text + "\n", encoding="utf-8")
        os.replace(draft, self._path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # only a record of what happened: nothing depends on it
    return found
