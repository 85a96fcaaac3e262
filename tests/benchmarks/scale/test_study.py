"""What steps cost on many GPUs: costs by hand, the fastest split, and the command."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.policy.sizes import SIZES, Decoder
from benchmarks.errors import EvaluationError
from benchmarks.readme import RESULTS
from benchmarks.scale import study as scale
from benchmarks.scale.costs import Assumptions, Gpu, fitted, on_gpus
from benchmarks.scale.simulation import Setup, simulate, splits
from benchmarks.scale.study import SENSITIVITY, SYSTEMS, Scene
from benchmarks.scale.timeline import step_seconds
from benchmarks.speed.paper_step import PaperStep
from benchmarks.speed.step_cost import Work
from tests.benchmarks.scale.scale_samples import SMALL, steps_of


def test_costs_of_gpus_by_hand() -> None:
    unit = Decoder(1, 1000, 1, 1, 1000, 1000, 1000)  # 7e6 weights, and 1e6 of the head
    gpu = Gpu(flops=1e12, memory=1e9, link=1e9, network=1e8, node=4)
    uses = {f"{name}_use": 0.5 for name in ("train", "prefill", "decode", "link")}
    assumed = Assumptions(**uses, step_overhead=1.0, handover=1e6, recompute=0.0, hop=1.0)
    costs = on_gpus(unit, 4, gpu=gpu, assumed=assumed)
    assert costs.decode_step == pytest.approx(1 + 16e6 / 0.5e9)
    assert costs.decode_token == pytest.approx(16e6 / 0.5e12)
    assert costs.decode_pair == pytest.approx(2 * 2 * 1000 / 0.5e9)
    assert costs.prefill_token == pytest.approx(14e6 / 0.5e12)
    assert costs.train_token == pytest.approx(3.75 * 14e6 / 0.5e12)
    assert costs.train_pair == pytest.approx(3.75 * 4000 / 0.5e12)
    assert costs.train_logit == pytest.approx(3.75 * 2e6 / 0.5e12)
    assert costs.exchanged == pytest.approx((2 * 2.75 + 4) * 8e6)
    assert costs.exchange(1) == 0.0
    assert costs.exchange(4) == pytest.approx(0.75 * costs.exchanged / 0.5e9 + 3 * 3.75)
    assert costs.exchange(8) == pytest.approx(0.875 * costs.exchanged / 0.2e9 + 7 * 3.75)
    assert costs.publish == costs.load == 16.0
    later = on_gpus(unit, 4, packed=False, gpu=gpu, assumed=replace(assumed, recompute=1.0))
    assert later.train_token == pytest.approx(5 * 14e6 / 0.5e12)


def test_fitted_costs_predict_what_they_were_fitted_to() -> None:
    recorded = json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))
    costs, per = fitted(recorded["fits"]), recorded["fits"]["update"]["microseconds_per"]
    work = Work(1000, 10**6, 10)
    seconds = 1e-6 * (1000 * per["trained"] + 10**6 * per["trained_pairs"] + 10 * per["sampled"])
    assert costs.training(work) == pytest.approx(seconds)
    assert costs.decode_pair == costs.prefill_pair > 0


def test_the_command_simulates_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "PaperStep", lambda: SMALL)
    monkeypatch.setattr(scale, "SENSITIVITY", {"turn": (5, 9), "switch": (0.1, 2.0)})
    out = tmp_path / "figures.json"
    few = "--gpus 1 2 --per-gpu 4 --steps 2 --sensitivity-gpus 2 --no-calibrate".split()
    scale.main([*few, "--out", str(out)])
    figures = json.loads(out.read_text())
    assert figures["fixed"]["1"]["questions"] == figures["growing"]["1"]["questions"] == 4
    assert figures["growing"]["2"]["questions"] == 8
    assert figures["fixed"]["2"]["systems"].keys() == SYSTEMS.keys()
    assert not {"split", "stale"} & figures["fixed"]["1"]["systems"].keys()
    for size in (*figures["fixed"].values(), *figures["growing"].values()):
        for row in size["systems"].values():
            assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
            assert row["seconds"] >= row["update_seconds"] > 0
    assert list(figures["sensitivity"]["varied"]) == ["turn", "switch"]
    again = scale.measure(
        scale.ScaleConfig(gpus=(1, 2), per_gpu=4, steps=2, sensitivity_gpus=2, calibrate=False)
    )
    assert json.loads(json.dumps(again)).items() <= figures.items()
    shown = capsys.readouterr().out
    assert "| event loop, packed |" in shown and "(1 + 1)" in shown and "seconds to put" in shown


def test_every_assumption_that_is_varied_exists() -> None:
    names = {f.name for cls in (Assumptions, PaperStep) for f in fields(cls)}
    assert SENSITIVITY.keys() <= names


def test_the_fastest_split_is_taken() -> None:
    scene = Scene(4, steps_of(0), mini_batches=2)
    best = scene.run("stale")
    costs = on_gpus(SIZES["Qwen3-4B"], 2)
    every = [
        step_seconds(simulate(scene.steps, setup, costs))
        for setup in splits(4, Setup(colocate=False, staleness=1, mini_batches=2))
    ]
    assert best["seconds"] == round(min(every), 2)


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"gpus": (0,)}, {"gpus": ()}, {"per_gpu": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="expected steps"):
        scale.measure(scale.ScaleConfig(**wrong))
