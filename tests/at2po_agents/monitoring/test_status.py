from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.errors import DivergedError, ToolsUnavailableError
from at2po_agents.monitoring import status
from at2po_agents.monitoring.status import FILE, RunStatus, read_status


class Interrupted(KeyboardInterrupt):
    """What a handler of signals may raise."""


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / FILE).read_text())
    return found


def test_a_run_is_running_until_it_has_finished(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunStatus(folder, resumed=False) as kept:
        assert (read(folder)["state"], read(folder)["step"]) == ("running", 0)
        kept.update(3)
        assert (read(folder)["state"], read(folder)["step"]) == ("running", 3)
        assert read(folder)["pid"] == os.getpid()
    found = read(folder)
    assert (found["state"], found["step"], found["why"]) == ("finished", 3, "")
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ToolsUnavailableError("search is away"), "paused"),
        (DivergedError("loss is nan"), "diverged"),
        (KeyboardInterrupt(), "stopped"),
        (SystemExit(143), "stopped"),
        (Interrupted(), "stopped"),
        (GeneratorExit(), "failed"),
        (OSError("no room"), "failed"),
    ],
)
def test_how_a_run_ended(error: BaseException, state: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), RunStatus(tmp_path, resumed=False):
        raise error
    why = "ended with code 143" if isinstance(error, SystemExit) else str(error)
    assert (read(tmp_path)["state"], read(tmp_path)["why"]) == (state, why)


def test_faults_are_kept_by_the_run_that_goes_on(tmp_path: Path) -> None:
    with RunStatus(tmp_path, resumed=False) as kept:
        kept.update(2)
        kept.fault("rollout_worker-1", "died", "replaced")
    (fault,) = read(tmp_path)["faults"]
    assert (fault["step"], fault["actor"], fault["what"]) == (2, "rollout_worker-1", "died")
    assert fault["done"] == "replaced"
    with RunStatus(tmp_path, resumed=True):
        assert read(tmp_path)["faults"] == [fault]
    with RunStatus(tmp_path, resumed=False):
        assert read(tmp_path)["faults"] == []


def test_a_run_that_was_killed_is_noted_by_the_next(tmp_path: Path) -> None:
    killed = RunStatus(tmp_path, resumed=False)
    killed.__enter__()
    killed.update(5)
    with RunStatus(tmp_path, resumed=True):
        (fault,) = read(tmp_path)["faults"]
    assert (fault["actor"], fault["step"], fault["done"]) == ("driver", 5, "resumed")


DEEP = "[" * 100_000 + "]" * 100_000
FAULT = {"time": 1.5, "step": 2, "actor": "learner_worker-0", "what": "died", "done": "replaced"}


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", '{"state": "runn', "[]", "null", "3", '"running"', "\xff", DEEP, "1" * 9999),
        *('{"faults": 5}', '{"faults": {"a": 1}}', '{"step": "abc"}', '{"step": -1}'),
        *('{"state": ["running"]}', '{"state": {}}', '{"step": true}', '{"faults": [5, {}]}'),
        json.dumps({"faults": [FAULT | {"time": "now"}, FAULT | {"step": None}]}),
        json.dumps({"faults": [FAULT | {"time": float("nan")}, FAULT | {"time": 1e300}]}),
    ],
)
def test_a_damaged_record_stops_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content.encode("latin-1"))
    with RunStatus(tmp_path, resumed=True):
        assert (read(tmp_path)["faults"], read(tmp_path)["step"]) == ([], 0)


def test_damage_costs_what_was_damaged(tmp_path: Path) -> None:
    record = {"state": "?", "step": 3, "faults": [FAULT, 5, FAULT | {"actor": 1}]}
    (tmp_path / FILE).write_text(json.dumps(record))
    assert read_status(tmp_path) == (None, 3, [FAULT])


def test_a_record_that_is_no_file_says_nothing(tmp_path: Path) -> None:
    nothing = (None, 0, [])
    assert read_status(tmp_path) == nothing
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / FILE)
        assert read_status(folder) == nothing


def test_how_a_run_ended_is_on_record_though_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="weights"), RunStatus(tmp_path, resumed=False):
        monkeypatch.setattr(status, "write_whole", full)
        raise OSError(28, "No space left for the weights")
    assert read(tmp_path)["state"] == "failed"
    assert "weights" in read(tmp_path)["why"]


def test_a_record_that_cannot_be_written_hides_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(DivergedError), RunStatus(folder, resumed=False):
        shutil.rmtree(folder)
        raise DivergedError("loss is nan")
    assert "does not say how the run ended" in caplog.text
