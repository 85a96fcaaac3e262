"""The benchmark of evaluations: it adds up, on a few episodes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evaluation import speed as eval_speed


def test_it_counts_what_it_says(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    eval_speed.main(["--episodes", "40", "--preset", "demo", "--batch", "8", "--out", str(out)])
    figures = json.loads(out.read_text())
    assert figures["episodes"] == 40 and figures["em"] > 0.5
    spent = figures["seconds_agent"] + figures["seconds_tools"]
    own = figures["seconds"] * figures["harness_share"]
    assert abs(figures["seconds"] - spent - own) < 0.01 * figures["seconds"] + 0.002
    assert 0 < figures["harness_share"] < 1
    assert len(figures["memory_mib"]) >= 6 and min(figures["memory_mib"]) > 10
    assert figures["bytes_written"] > 40 * 100
    assert figures["environment"]["cores"] >= 1
