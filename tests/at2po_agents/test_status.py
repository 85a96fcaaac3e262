from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.errors import DivergedError, ToolsAwayError
from at2po_agents.status import FILE, RunStatus


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / FILE).read_text())
    return found


def test_a_run_is_running_until_it_has_finished(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunStatus(folder, resumed=False) as status:
        assert (read(folder)["state"], read(folder)["step"]) == ("running", 0)
        status.update(3)
        assert (read(folder)["state"], read(folder)["step"]) == ("running", 3)
        assert read(folder)["pid"] == os.getpid()
    found = read(folder)
    assert (found["state"], found["step"], found["why"]) == ("finished", 3, "")
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ToolsAwayError("search is away"), "paused"),
        (DivergedError("loss is nan"), "diverged"),
        (KeyboardInterrupt(), "stopped"),
        (OSError("no room"), "failed"),
    ],
)
def test_how_a_run_ended(error: BaseException, state: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), RunStatus(tmp_path, resumed=False):
        raise error
    assert (read(tmp_path)["state"], read(tmp_path)["why"]) == (state, str(error))


def test_faults_are_kept_by_the_run_that_goes_on(tmp_path: Path) -> None:
    with RunStatus(tmp_path, resumed=False) as status:
        status.update(2)
        status.fault("collector-1", "died", "replaced")
    (fault,) = read(tmp_path)["faults"]
    assert (fault["step"], fault["actor"], fault["what"]) == (2, "collector-1", "died")
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


@pytest.mark.parametrize("content", ["", "{", '{"state": "runn'])
def test_a_damaged_record_stops_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with RunStatus(tmp_path, resumed=True):
        assert read(tmp_path)["faults"] == []
