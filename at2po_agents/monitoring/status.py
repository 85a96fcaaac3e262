"""How a run stands, and what happened to it: `status.json` in its folder, always whole."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeGuard, get_args

from at2po_agents.errors import DivergedError, ToolsUnavailableError
from retrieval.storage.files import write_whole

_log = logging.getLogger(__name__)

FILE = "status.json"
State = Literal["running", "finished", "paused", "stopped", "diverged", "failed"]
_ENDS: Mapping[type[BaseException], State] = {
    ToolsUnavailableError: "paused",
    DivergedError: "diverged",
    KeyboardInterrupt: "stopped",
    SystemExit: "stopped",  # what a signal to end has become by now
    BaseException: "failed",
}


class Status(NamedTuple):
    """What a `status.json` says; it is a mere record, so what makes no sense is left out.

    Attributes:
        state: How the run stands, None if that is not known.
        step: Training steps done.
        faults: What went wrong so far.
    """

    state: State | None
    step: int
    faults: list[dict[str, object]]


class RunStatus:
    """Keeps `status.json`; a context manager that writes how the run ended.

    States: running; finished; paused (tools are unavailable: nothing is wrong with the run);
    stopped (by the user); diverged; failed. A process that was killed leaves "running": the next
    one to resume the run finds that, and notes it among the faults.

    Args:
        folder: Folder of the run.
        resumed: Whether the run goes on; its faults so far are kept.
    """

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        self._path = folder / FILE
        before = read_status(folder) if resumed else Status(None, 0, [])
        self.faults, self._step = before.faults, before.step
        if before.state == "running":
            self.fault("driver", "ended with no final status", "resumed")

    def fault(self, actor: str, what: str, done: str) -> None:
        """Note something that went wrong.

        Args:
            actor: The process, such as "rollout_worker-1".
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
        write_whole(self._path, self._text("running", ""))

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._home = self._path.parent.stat()
        write_whole(self._path, self._text("running", ""))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state: State = "finished"
        if kind is not None:
            state = next(end for base, end in _ENDS.items() if issubclass(kind, base))
        code = f"ended with code {error.code}" if isinstance(error, SystemExit) else ""
        text = self._text(state, code or str(error or ""))
        try:
            if not os.path.samestat(self._home, self._path.parent.stat()):
                raise FileNotFoundError("another folder is in the place of the run's")
        except FileNotFoundError as problem:
            _log.warning("%s: does not say how the run ended (%s)", self._path, problem)
            return
        try:
            write_whole(self._path, text)
        except OSError as problem:
            _log.warning("%s: cannot be replaced (%s)", self._path, problem)
            self._overwrite(text)

    def _overwrite(self, text: str) -> None:
        """Write into the file that is there: where the disk is full, it has the room it had."""
        try:
            with self._path.open("r+b") as file:
                file.write(text.encode("utf-8", "replace"))
                file.truncate()
        except OSError as problem:
            _log.warning("%s: does not say how the run ended (%s)", self._path, problem)

    def _text(self, state: State, why: str) -> str:
        facts = {"state": state, "step": self._step, "why": why, "updated": round(time.time(), 1)}
        return json.dumps({**facts, "pid": os.getpid(), "faults": self.faults}, indent=2) + "\n"


def read_status(folder: Path) -> Status:
    """Return what the `status.json` of a run says; one that is damaged or missing says nothing.

    Args:
        folder: Folder of the run.
    """
    path, found = folder / FILE, None
    try:
        if path.is_file():  # a pipe would be waited for
            found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        pass  # nothing depends on it
    record: dict[str, object] = found if isinstance(found, dict) else {}
    step, faults = record.get("step"), record.get("faults")
    return Status(
        next((state for state in get_args(State) if state == record.get("state")), None),
        step if _is_step(step) else 0,
        [fault for fault in faults if _is_fault(fault)] if isinstance(faults, list) else [],
    )


def _is_step(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _is_fault(value: object) -> bool:
    if not (isinstance(value, dict) and _is_step(value.get("step"))):
        return False
    when = value.get("time")
    texts = (value.get(name) for name in ("actor", "what", "done"))
    known = isinstance(when, int | float) and type(when) is not bool and 0 <= when < 2**32
    return known and all(isinstance(text, str) for text in texts)
