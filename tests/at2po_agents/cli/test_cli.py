"""Each command of `at2po` from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from at2po_agents.cli import main
from at2po_agents.policy.loading import load_model
from at2po_agents.rollout.export import read_rows

pytestmark = pytest.mark.filterwarnings("default")  # TensorBoard's own warnings are not ours


def test_demo_trains_and_writes_a_report_and_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    out = tmp_path / "demo"
    words = ["--steps", "1", "--rollout.questions-per-step", "2", "--optim.mini-batches", "1"]
    words += ["--eval.questions", "4"]
    main(["demo", *words, "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["steps"], summary["questions"]) == (1, 4)
    assert "<html" in (out / "report.html").read_text()
    main(["export", str(out), str(tmp_path / "model")])
    assert "step 1 of" in capsys.readouterr().out
    weights, trained = (
        load_model(str(path))[0].state_dict()
        for path in (tmp_path / "model", out / "checkpoints" / "step_000001")
    )
    assert all(torch.equal(weights[name], trained[name]) for name in trained)
    assert "expected a new folder" in refused("export", str(out), str(tmp_path / "model"))
    main(["demo", *words, "--out", str(out)])
    assert (tmp_path / "demo.1" / "summary.json").exists()


def test_train_refuses_a_folder_that_holds_a_run(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert "--resume" in refused("train", "--config", "demo", "--out", str(tmp_path))


def test_eval_of_the_scripted_agent(tmp_path: Path) -> None:
    main(["eval", "--agent", "scripted", "--limit", "20", "--out", str(tmp_path / "eval")])
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["em"] == 1.0
    assert (tmp_path / "eval" / "episodes.jsonl").read_text().count("\n") == 20


def test_eval_of_the_embedded_model(tmp_path: Path, refused: Callable[..., str]) -> None:
    out = str(tmp_path / "eval")
    main(["eval", "--limit", "5", "--out", out])
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["questions"] == 5
    card = json.loads((tmp_path / "eval" / "card.json").read_text())
    assert card["agent_settings"]["model"] == "mini" and card["split"] == "test"
    assert len(card["agent_settings"]["weights"]) == 64
    written = (tmp_path / "eval" / "summary.json").read_bytes()
    main(["eval", "--limit", "5", "--out", out])  # there is nothing left to do
    assert (tmp_path / "eval" / "summary.json").read_bytes() == written
    said = refused("eval", "--limit", "5", "--temperature", "1", "--out", out)
    assert "temperature: 0.0 there, 1.0 here" in said and "choose another folder" in said


def test_eval_of_the_simple_agents_on_two_sets(tmp_path: Path) -> None:
    envs = "at2po/Calculator-v0,at2po/MiniWiki-v0"
    main(["eval", "--agent", "random", "--env", envs, "--limit", "4", "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["sets"]) == ["Calculator", "MiniWiki"] and summary["questions"] == 8
    assert summary["agent"] == "random" and not summary["failures"]
    card = json.loads((tmp_path / "MiniWiki" / "card.json").read_text())
    assert (card["agent"], card["env"]) == ("random", "at2po/MiniWiki-v0")
    for agent, turns in (("direct", 1), ("rag", 2)):
        out = tmp_path / agent
        short = ["--limit", "2", "--max-response-tokens", "30"]
        main(["eval", "--agent", agent, *short, "--out", str(out)])
        for line in (out / "episodes.jsonl").read_text().splitlines():
            assert json.loads(line)["turns"] == turns


def test_rollout_draws_a_tree_and_exports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    main(["rollout", "--index", "1", "--export", str(file)])
    assert len(read_rows(file)) > 1
    drawn = capsys.readouterr().out
    assert "reward" in drawn
    assert "<search>" in drawn


def test_warmstart_makes_a_model_that_can_be_evaluated(tmp_path: Path) -> None:
    out = tmp_path / "mini"
    sizes = ["--layers", "1", "--width", "32", "--vocabulary", "600"]
    work = ["--worlds", "1", "--episodes", "300", "--steps", "3"]
    main(["warmstart", *sizes, *work, "--out", str(out)])
    main(["eval", "--model", str(out), "--limit", "2", "--out", str(tmp_path / "eval")])
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["questions"] == 2


def test_missing_questions_name_the_three_places(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AT2PO_DATA", str(tmp_path))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "passages.jsonl").write_text("")
    said = refused("eval", "--env", "at2po/HotpotQA-v0", "--out", str(tmp_path / "e"))
    assert "questions_path" in said and "AT2PO_DATA" in said and "hub" in said
