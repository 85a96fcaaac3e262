"""Runs as processes: beside each other in one folder, killed again and again, on a full disk."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.config.train import dump_config
from at2po_agents.monitoring.status import read_status
from tests.at2po_agents.training.runs import rows_without_time, small, tensor_hashes

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "at2po_agents")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
BUSY = r"expected no other writer, found\s+a\s+training\s+run\s+by\s+process\s+\d+"
KILLS = int(os.environ.get("AT2PO_KILLS", "6"))


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """Arguments of a run of seconds, but for its folder."""
    changes = {"rollout.questions_per_step": 2, "rollout.max_response_tokens": 200}
    config = small(Path("run"), **changes, **{"eval.questions": 4, "checkpoint.every": 1})
    (tmp_path / "run.toml").write_text(dump_config(config))
    return ("--config", str(tmp_path / "run.toml"))


def start(*words: str) -> subprocess.Popen[str]:
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *words], env=ENVIRONMENT, **pipes)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def outcome(out: Path) -> dict[str, Any]:
    """What a run leaves that does not depend on the clock."""
    summary = json.loads((out / "summary.json").read_text())
    files = [*out.glob("episodes/*"), *out.glob("trees/*")]
    return {
        "summary": {k: v for k, v in summary.items() if k != "seconds"},
        "rows": rows_without_time(out),
        "files": {str(path.relative_to(out)): path.read_bytes() for path in files},
        "tensors": {path.name: tensor_hashes(path) for path in out.glob("checkpoints/*")},
    }


def test_two_runs_at_once_in_one_folder(words: Sequence[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    seeds = [start("train", *words, "--out", str(out), "--seed", str(seed)) for seed in (0, 1)]
    ends = [end(process) for process in seeds]
    assert sorted(code for code, _ in ends) == [0, 2]
    winner = [code for code, _ in ends].index(0)
    assert re.search(BUSY, ends[1 - winner][1])
    assert outcome(out)["summary"]["seed"] == winner
    assert f"\nseed = {winner}\n" in (out / "config.toml").read_text()
    end(start("train", *words, "--out", str(tmp_path / "alone"), "--seed", str(winner)))
    assert outcome(out) == outcome(tmp_path / "alone")


def test_a_living_run_is_neither_resumed_nor_moved(words: Sequence[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start("demo", *words, "--out", str(out))
    wait_for(out / "checkpoints" / "step_000001", first)
    first.send_signal(signal.SIGSTOP)  # it lives, however slowly
    for command in (("train", "--resume"), ("demo",), ("demo", "--resume"), ("train",)):
        code, said = end(start(*command, *words, "--out", str(out)))
        assert code == 2 and re.search(BUSY, said), said
    first.send_signal(signal.SIGCONT)
    assert end(first)[0] == 0
    assert read_status(out).faults == []
    whole = outcome(out)
    assert end(start("demo", *words, "--out", str(out), "--steps", "1"))[0] == 0
    assert outcome(tmp_path / "run.1") == whole
    assert outcome(out)["summary"]["steps"] == 1


def test_killed_again_and_again_a_run_ends_as_if_it_never_was(
    words: Sequence[str], tmp_path: Path
) -> None:
    begun = time.monotonic()
    assert end(start("train", *words, "--out", str(tmp_path / "alone")))[0] == 0
    lasted = time.monotonic() - begun
    chance = random.Random(15)
    out, kills = tmp_path / "run", 0
    while kills < KILLS:
        process = start("train", *words, "--out", str(out), "--resume")
        try:
            said = process.communicate(timeout=chance.uniform(0.3, 1.0) * lasted)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, said
        assert outcome(out) == outcome(tmp_path / "alone")
        shutil.rmtree(out)  # and once more from the start
    assert end(start("train", *words, "--out", str(out), "--resume"))[0] == 0
    assert outcome(out) == outcome(tmp_path / "alone")
    assert not list(out.glob("checkpoints/.step_*"))


FULL = """
set -e
mount -t tmpfs -o size="$1" none "$2"
set +e
"$3" -m at2po_agents train --config "$4" --out "$2/run" 2> "$5/said"
echo $? > "$5/code"
cp -r "$2/run" "$5/full"
set -e
mount -o remount,size=400m "$2"
"$3" -m at2po_agents train --config "$4" --out "$2/run" --resume
cp -r "$2/run" "$5/run"
"""


@pytest.mark.parametrize("size", ["6m", "14m", "27m"])
def test_a_full_disk(size: str, words: Sequence[str], tmp_path: Path) -> None:
    """It is the first weights, the optimizer, or another checkpoint that find no room."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Urm", "true"]).returncode:
        pytest.skip("mounting a small disk needs user namespaces")
    (mounted := tmp_path / "disk").mkdir()
    done = ["unshare", "-Urm", "sh", "-c", FULL, "sh", size, mounted, sys.executable, words[1]]
    subprocess.run([*done, tmp_path], env=ENVIRONMENT, check=True, timeout=500)
    assert (tmp_path / "code").read_text() == "2\n", (tmp_path / "said").read_text()
    assert "Traceback" not in (tmp_path / "said").read_text()
    left = tmp_path / "full"
    assert read_status(left).state == "failed"
    assert not [path for path in left.rglob("*") if path.name.startswith(".step_")]
    assert not [path for path in left.rglob("*") if path.name.endswith(".draft")]
    assert end(start("train", *words, "--out", str(tmp_path / "alone")))[0] == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "alone")
