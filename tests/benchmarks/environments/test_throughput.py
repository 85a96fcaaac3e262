"""The environment benchmark: it counts what it says, and says when the peer is absent."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.environments import throughput as env_throughput
from benchmarks.environments.throughput import EnvThroughputConfig, Stub, measure, rate, turns
from benchmarks.errors import EvaluationError

QUICK = {"envs": 2, "questions": 4, "delay_ms": 0.1, "seconds": 0.01, "depths": (1, 3)}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time everything once: what it takes is not looked at."""
    monkeypatch.setattr(env_throughput, "microseconds", lambda work: work() and 1.0)


def test_all_figures_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "figures.json"
    words = [f"--{name.replace('_', '-')}" for name in QUICK]
    values = [v if isinstance(v, tuple) else (v,) for v in QUICK.values()]
    given = [str(x) for word, value in zip(words, values, strict=True) for x in (word, *value)]
    env_throughput.main([*given, "--peer-python", "", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert capsys.readouterr().out == out.read_text()
    assert figures["peer"] is None and figures["questions"] == 4
    for rates in figures["steps_per_second"].values():
        assert rates["one_by_one"] > 0 < rates["vector"]
    shallow, deep = figures["forking_by_depth"].values()
    assert shallow["snapshot_bytes"] < deep["snapshot_bytes"] < deep["deepcopy_bytes"]


def test_an_episode_is_three_searches_and_an_answer() -> None:
    actions = list(islice(turns(), 8))
    assert actions[:4] == actions[4:] and sum("<search>" in action for action in actions) == 6


def test_a_rate_counts_whole_episodes_after_the_first() -> None:
    seen: list[str] = []

    def step(action: str) -> int:
        seen.append(action)
        return 10

    per_second = rate(step, turns(), 0.001)
    assert per_second > 0 and len(seen) % 4 == 0 and len(seen) >= 8


def test_the_stub_waits_once_a_call() -> None:
    found = Stub(0.0).search(["a", "b"], 3)
    assert [[p.title for p in each] for each in found] == [["Film 0", "Film 1", "Film 2"]] * 2


def test_a_peer_that_cannot_run_is_an_error() -> None:
    if importlib.util.find_spec("gem"):
        pytest.skip("gem-llm is installed beside us")
    with pytest.raises(EvaluationError, match="expected a Python with gem-llm"):
        measure(EnvThroughputConfig(**QUICK, peer_python=sys.executable))


@pytest.mark.parametrize("wrong", [{"envs": 0}, {"depths": (1, 0)}, {"delay_ms": 0.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(EvaluationError, match="expected envs, questions, depths >= 1"):
        measure(EnvThroughputConfig(**QUICK | wrong))
