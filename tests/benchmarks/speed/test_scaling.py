"""The scaling benchmark: its arithmetic against counts by hand, its fits, and a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen3Config

from at2po_agents.policy.sizes import SIZES, Decoder
from at2po_agents.tree import RolloutTree
from benchmarks.errors import EvaluationError
from benchmarks.readme import RESULTS
from benchmarks.speed import scaling
from benchmarks.speed.cost_model import fit
from benchmarks.speed.paper_step import PaperStep
from benchmarks.speed.scaling import Point, ScalingConfig, paper_step
from benchmarks.speed.step_cost import Work, bill, counts, flops, step_work


def small_tree() -> RolloutTree:
    """Prompt of 3; a turn of 2 with 4 inserted; behind it two turns of 2 and 1; a chain of 1."""
    tree = RolloutTree("q", [0] * 3)
    first = tree.add(tree.root, sampled=[0] * 2, inserted=[0] * 4)
    tree.add(first, sampled=[0] * 2)
    tree.add(first, sampled=[0])
    tree.add(tree.root, sampled=[0])
    return tree


def test_work_of_a_tree_is_that_by_hand() -> None:
    work = step_work([small_tree()])
    # A token at place p, from 1, attends to p tokens. Rows are 3+2+4+2 = 11, 10 and 4 long.
    assert work["packed"] == Work(13, sum(range(1, 12)) + 10 + 4, 6)
    assert work["flat"] == Work(25, 66 + 55 + 10, (2 + 2) + (2 + 1) + 1)
    # Decoded are places 4 and 10; the last token of a turn passes through only where more follows.
    assert work["decode"] == Work(2, 4 + 10, 6)
    assert work["prefill"] == Work(3 + 5, 1 + 2 + 3 + 5 + 6 + 7 + 8 + 9, 0)
    # Both chains prefill the prompt; the first goes on with 5 tokens, the fork prefills all 9.
    assert work["prefill_chains"] == Work(3 + 3 + 5 + 9, 6 + 6 + 35 + 45, 0)
    assert work["prefill_turns"] == Work(3 + 3 + 9 + 9, 6 + 6 + 45 + 45, 0)
    found = {"leaves": 3, "turns": 4, "turns_per_leaf": 1.667, "prompt": 3, "sampled": 6}
    assert counts([small_tree()]) == found | {"inserted": 4}
    both = step_work([small_tree(), small_tree()])
    assert both["flat"] == Work(50, 262, 16)


def test_flops_of_a_decoder_are_those_by_hand() -> None:
    # 36 layers of q and o (2560 x 4096), k and v (2560 x 1024), and three matrices 2560 x 9728.
    qwen3_4b = SIZES["Qwen3-4B"]
    assert qwen3_4b.weights == 36 * (2 * 10_485_760 + 2 * 2_621_440 + 3 * 24_903_680)
    assert flops(qwen3_4b, Work(1, 0, 0)) == 2 * 3_633_315_840
    assert flops(qwen3_4b, Work(0, 1, 0)) == 4 * 36 * 4096
    assert flops(qwen3_4b, Work(0, 0, 1)) == 2 * 2560 * 151_936
    made = Qwen3Config(
        num_hidden_layers=2,
        hidden_size=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=16,
        vocab_size=32,
    )
    assert Decoder.of(made) == Decoder(2, 8, 4, 2, 4, 16, 32)


def test_the_bill_adds_up() -> None:
    unit = Decoder(1, 1000, 1, 1, 1000, 1000, 1000)  # 7e6 weights
    work = step_work([small_tree()])
    found = bill(work, unit, mini_batches=4)
    million = flops(unit, work["packed"]) / 1e12
    assert found["shared"]["update"]["tokens"] == 13
    assert found["shared"]["old log-probabilities"]["tokens"] == 13 * 3 // 4 + 1  # rounded 9.75
    assert found["chains"]["old log-probabilities"]["tokens"] == 25
    assert found["nothing"]["prefill"]["tokens"] == 24
    big = bill({name: Work(*(n * 10**7 for n in w)) for name, w in work.items()}, unit, 4)
    assert big["shared"]["update"]["tflops"] == pytest.approx(3e7 * million, abs=0.06)
    for parts in big.values():
        named = ("decode", "prefill", "old log-probabilities", "update")
        total = sum(parts[part]["tflops"] for part in named)
        assert parts["total"]["tflops"] == pytest.approx(total, abs=0.06)


def test_the_steps_drawn_have_the_shape_of_the_paper_s() -> None:
    plans = PaperStep().draw(40, np.random.default_rng(0))
    assert {len(plan.tree.leaves()) for plan in plans} == {22}
    assert {tuple(map(len, plan.waves)) for plan in plans} == {(10, 6, 6)}
    turns = [turn for plan in plans for turn in plan.tree.nodes()[1:]]
    leaves = [leaf for plan in plans for leaf in plan.tree.leaves()]
    assert np.mean([leaf.depth for leaf in leaves]) == pytest.approx(3.71, abs=0.15)
    assert max(leaf.depth for leaf in leaves) <= 7
    assert np.mean([len(turn.sampled) for turn in turns]) == pytest.approx(120, rel=0.03)
    waited = [turn.info["tool_seconds"] for turn in turns if turn.children]
    assert np.mean(waited) == pytest.approx(0.5, rel=0.1) and min(waited) > 0
    assert all(len(turn.inserted) == 440 * bool(turn.children) for turn in turns)
    work = step_work([plan.tree for plan in plans])
    assert work["packed"].tokens < work["flat"].tokens
    assert work["prefill"] < work["prefill_chains"] < work["prefill_turns"]


def test_the_recorded_bill_follows_from_the_arithmetic() -> None:
    recorded = json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))
    assert recorded["paper_step"] == json.loads(json.dumps(paper_step()))


def test_the_recorded_fits_are_found_again() -> None:
    recorded = json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))
    rows = {str(row): row for rows in recorded["factors"].values() for row in rows}
    for part, terms in (("rollout", scaling.ROLLOUT_TERMS), ("update", scaling.UPDATE_TERMS)):
        found = fit(list(rows.values()), terms, f"{part}_seconds")
        assert found.pop("microseconds_per") == pytest.approx(
            recorded["fits"][part].pop("microseconds_per"), abs=1e-6
        )
        assert found == recorded["fits"][part]


def test_a_fit_finds_the_costs_that_were_there() -> None:
    rng = np.random.default_rng(0)
    rows = [{"a": float(a), "b": float(b)} for a, b in rng.integers(1, 100, (8, 2))]
    exact = [{**row, "t": 2e-3 * row["a"] + 5e-6 * row["b"]} for row in rows]
    found = fit(exact, ("a", "b"), "t")
    assert found["microseconds_per"] == pytest.approx({"a": 2000, "b": 5})
    assert found["r2"] == 1 and found["left_out_error_max"] == 0
    odd = [*exact, {"a": 10.0, "b": 10.0, "t": 1.0}]
    assert fit(odd, ("a", "b"), "t")["left_out_error_max"] == pytest.approx(0.98, abs=0.01)


def test_the_command_takes_steps_and_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny(**changes: int) -> Point:
        return Point(**{"questions": 1, "chains": 2, "beam": 1, "depth": 2} | changes)

    monkeypatch.setattr(scaling, "BASE", tiny())
    factors = {"questions": (tiny(), tiny(questions=2)), "depth": (tiny(), tiny(depth=3))}
    monkeypatch.setattr(scaling, "FACTORS", factors)
    out = tmp_path / "figures.json"
    scaling.main(["--repeats", "1", "--out", str(out)])
    figures = json.loads(out.read_text())
    one, two = figures["factors"]["questions"]
    assert (one["leaves"], two["leaves"]) == (4, 8)
    assert one == figures["factors"]["depth"][0]
    assert figures["factors"]["depth"][1]["turns_per_leaf"] == 3
    # Every tree is trained on whole, whatever it earned.
    assert two["trained"] == two["prompt"] + two["sampled"] + two["inserted"]
    assert one["peak_mib"] > 50
    shown = capsys.readouterr().out
    assert "| questions | 2 |" in shown and "PFLOP" in shown


def test_no_repeats_are_refused() -> None:
    with pytest.raises(EvaluationError, match="expected repeats"):
        scaling.measure(ScalingConfig(repeats=0))
