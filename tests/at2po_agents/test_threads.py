"""Which threads are chosen on quiet and busy machines, and that a run keeps their number."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch

from at2po_agents import threads
from at2po_agents.cli import main
from at2po_agents.config.train import TrainConfig, load_config, override
from at2po_agents.training.trainer import Trainer


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four CPUs without a limit."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")


def chosen(free: float, **environ: str) -> dict[str, str]:
    """What is added to an environment."""
    found = dict(environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_free_cpus", lambda: free)
        threads.choose(found)
    return {name: value for name, value in found.items() if name not in environ}


def test_threads_spin_a_little_where_all_is_quiet_and_sleep_where_it_is_not() -> None:
    assert chosen(4.0) == chosen(3.6) == {"GOMP_SPINCOUNT": "1000"}
    assert chosen(3.0) == chosen(0.0) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert chosen(2.0, OMP_NUM_THREADS="2") == {"GOMP_SPINCOUNT": "1000"}
    assert chosen(1.0, OMP_NUM_THREADS="2") == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_what_the_user_has_set_stays() -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        assert chosen(0.0, **{name: "x"}) == {}
    assert chosen(0.0, OMP_NUM_THREADS="1") == {}
    assert chosen(0.0, OMP_NUM_THREADS="4,2") == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_help_needs_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "choose", lambda: pytest.fail("chosen"))
    for word in ("--help", "-h"):
        with pytest.raises(SystemExit) as stop:
            main(["train", word])
        assert stop.value.code == 0


@pytest.mark.parametrize(
    ("limit", "number"),
    [
        *[("200000 100000", "2"), ("250000 100000", "2"), ("50000 100000", "1")],
        *[("900000 100000", ""), ("max 100000", ""), ("", ""), ("one two three", "")],
    ],
)
def test_a_container_gets_as_many_threads_as_it_may_use(limit: str, number: str) -> None:
    threads._QUOTA.write_text(limit)
    assert chosen(4.0).get("OMP_NUM_THREADS", "") == number
    assert "OMP_NUM_THREADS" not in chosen(4.0, OMP_NUM_THREADS="3")


def test_free_cpus_are_those_that_the_load_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)  # four of which are this process's
    for load, free in ((0.0, 4.0), (6.0, 1.0), (20.0, 0.0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 9.0, 9.0))
        assert threads._free_cpus() == free

    def unknown() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert threads._free_cpus() == 4


def test_a_run_keeps_its_number_of_threads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(TrainConfig, "demo")
    changed = {
        "steps": 1,
        "rollout.questions_per_step": 2,
        "optim.mini_batches": 1,
        "eval.questions": 2,
    }
    here = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        Trainer(override(config, {"out": tmp_path, **changed})).run()
        assert json.loads((tmp_path / "summary.json").read_text())["threads"] == 1
        torch.set_num_threads(2)
        changed["steps"] = 2
        with caplog.at_level(logging.INFO):
            Trainer(override(config, {"out": tmp_path, "resume": True, **changed})).run()
        assert torch.get_num_threads() == 1
        assert "keeps its 1 threads (2 here)" in caplog.text
        assert json.loads((tmp_path / "summary.json").read_text())["threads"] == 1
    finally:
        torch.set_num_threads(here)
