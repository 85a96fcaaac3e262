"""Trackers get every row; here stand-ins that note what they are told, as neither is installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.errors import MetricsError
from at2po_agents.monitoring.metrics_log import MetricsLog, read_metrics
from at2po_agents.monitoring.trackers import open_tracker
from at2po_agents.training.trainer import Trainer
from tests.at2po_agents.training.runs import brief


class Fake(types.ModuleType):
    """A module with the three functions that both trackers have."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls.append(("log", (step, values)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.fixture(params=["wandb", "trackio"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    module = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_rows_arrive_as_they_are_written(fake: Fake, tmp_path: Path) -> None:
    tracker = open_tracker(fake.__name__, tmp_path, {"seed": 1})
    with MetricsLog(tmp_path, tensorboard=False, tracker=tracker) as log:
        log.write(1, {"eval/em": 0.5}, {"rollout": 2.0})
    (_, options), logged, ended = fake.calls
    assert (options["project"], options["name"]) == ("at2po", tmp_path.name)
    assert (options["config"], options["resume"]) == ({"seed": 1}, "allow")
    assert logged == ("log", (1, {"eval/em": 0.5, "time/rollout": 2.0}))
    assert ended == ("finish", None)


def test_a_resumed_run_goes_on_under_its_id(fake: Fake, tmp_path: Path) -> None:
    for resumed in (False, True, False):
        open_tracker(fake.__name__, tmp_path, {}, resumed=resumed)
    ids = [options.get("id") for _, options in fake.calls]
    assert (ids[0] == ids[1]) and (fake.__name__ == "trackio" or ids[1] != ids[2])


@pytest.mark.parametrize("damage", ["", "\xff", "deadbee", "../../etc", "deadbeef\n"])
def test_an_id_that_is_none_of_ours_is_replaced(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    (tmp_path / "wandb_id").write_bytes(damage.encode("latin-1"))
    open_tracker("wandb", tmp_path, {}, resumed=True)
    ((_, options),) = module.calls
    assert len(options["id"]) == 8 and (tmp_path / "wandb_id").read_text() == options["id"]


def test_a_run_tells_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Fake("trackio")
    monkeypatch.setitem(sys.modules, "trackio", module)
    Trainer(brief(tmp_path / "run", tracker="trackio")).run()
    (_, options), (_, (step, values)), _ = module.calls
    assert options["config"]["model"]["name"] == "mini" and step == 0
    (row,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert row["eval/em"] == values["eval/em"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MetricsError, match="pip install wandb"):
        open_tracker("wandb", tmp_path, {})
    assert open_tracker("none", tmp_path, {}) is None
