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
from benchmarks.scale.calibration import amounts, calibrate, compared
from benchmarks.scale.costs import Assumptions, Gpu, fitted, on_gpus
from benchmarks.scale.simulation import Setup, simulate, splits
from benchmarks.scale.study import SENSITIVITY
from benchmarks.scale.systems import SYSTEMS, Scene
from benchmarks.scale.timeline import stage_seconds, step_seconds
from benchmarks.scale.workload import Workload
from benchmarks.speed.scaling import Point
from benchmarks.speed.step_cost import PaperStep, Work
from tests.benchmarks.scale.scale_samples import SMALL, SOME, steps_of


def test_costs_of_gpus_by_hand() -> None:
    unit = Decoder(1, 1000, 1, 1, 1000, 1000, 1000)  # 7e6 weights, and 1e6 of the head
    gpu = Gpu(flops=1e12, memory=1e9, link=1e9, network=1e8, node=4)
    uses = {f"{name}_use": 0.5 for name in ("train", "prefill", "decode", "link")}
    assumed = Assumptions(**uses, step_overhead=1.0, handover=1e6, recompute=0.0, hop=1.0)
    costs = on_gpus(unit, 4, first_read=True, gpu=gpu, assumed=assumed)
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
    later = on_gpus(unit, 4, first_read=False, gpu=gpu, assumed=replace(assumed, recompute=1.0))
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
    monkeypatch.setattr(scale, "Workload", lambda: SMALL)
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
    names = {f.name for cls in (Assumptions, Workload, PaperStep) for f in fields(cls)}
    assert SENSITIVITY.keys() <= names


def test_the_fastest_split_is_taken() -> None:
    scene = Scene(4, steps_of(0), mini_batches=2)
    best = scene.run(SYSTEMS["stale"])
    costs = on_gpus(SIZES["Qwen3-4B"], 2, first_read=True)
    every = [
        step_seconds(simulate(scene.steps, setup, costs))
        for setup in splits(4, Setup(staleness=1, mini_batches=2))
    ]
    assert best["seconds"] == round(min(every), 2)


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"gpus": (0,)}, {"gpus": ()}, {"per_gpu": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="expected steps"):
        scale.measure(scale.ScaleConfig(**wrong))


def test_what_is_predicted_is_what_the_simulation_takes() -> None:
    steps, setup = steps_of(3, 1), Setup(mini_batches=2)
    pieces = simulate(steps, setup, SOME)
    measured = {
        "rollout_seconds": stage_seconds(pieces, "collect", skip=0),
        "update_seconds": 2 * stage_seconds(pieces, "update", skip=0),
    }
    found = compared(measured, steps, setup, SOME)
    assert (found["rollout"]["error"], found["update"]["error"]) == (0.0, -0.5)
    assert found["update"]["measured"] == pytest.approx(2 * found["update"]["predicted"], abs=2e-3)


def test_costs_are_fitted_to_what_the_simulation_counts() -> None:
    """On steps that take exactly what their amounts cost, the simulation is exact."""
    cost = {"engine_steps": 0.05, "sampled": 0.002, "prefilled": 1e-4, "rollout_pairs": 1e-6}
    (trees,) = steps_of(4, 1)
    for tree in trees:
        for turn in tree.turns:
            turn.tool = 0.0
    work = amounts(trees, 2)
    rollout = sum(work[name] * each for name, each in cost.items()) + 0.001 * work["turns"]
    update = 1e-3 * work["trained"] + 1e-7 * work["trained_pairs"] + 0.1 * work["optimizer_steps"]
    costs = replace(SOME, prefill_pair=SOME.decode_pair, train_logit=0.0)
    measured = {"rollout_seconds": rollout, "update_seconds": update}
    found = compared(measured, [trees], Setup(mini_batches=2), costs)
    assert found["rollout"]["error"] == found["update"]["error"] == 0.0


def test_calibration_takes_real_steps() -> None:
    tiny = [Point(questions=1, chains=2, beam=1, depth=d, passages=p) for d, p in ((2, 1), (3, 2))]
    found = calibrate(fit_to=tiny, predict=[tiny[0]], repeats=1)
    assert found["fits"].keys() == {"rollout", "update"}
    (row,) = found["one_worker"]
    assert (row["questions"], row["depth"]) == (1, 2)
    for stage in ("rollout", "update"):
        assert row[stage]["measured"] > 0 and row[stage]["predicted"] >= 0
