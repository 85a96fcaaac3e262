"""The table of baselines: evaluated, gathered, written into docs/results.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.baselines import study as evaluations
from benchmarks.baselines import table as results_table
from benchmarks.baselines.study import AGENTS, WORLDS, Entry, EvaluationsConfig, main
from benchmarks.errors import EvaluationError
from benchmarks.paper.table import SIZES


def test_the_worlds_are_evaluated_and_gathered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluations.json"
    words = ["--limit", "5", "--runs", str(tmp_path / "runs"), "--out", str(out), "--agents"]
    main([*words, "scripted"])
    main([*words, "scripted-erring"])
    result = json.loads(out.read_text())
    assert list(result["agents"]) == ["scripted", "scripted-erring"]  # the first was kept
    sets = result["agents"]["scripted"]["sets"]
    assert [sets[name]["questions"] for name in WORLDS] == [5, 5, 5]
    assert result["agents"]["scripted"]["macro"]["em"] == pytest.approx(
        sum(sets[name]["em"] for name in WORLDS) / 3
    )
    assert result["agents"]["scripted-erring"]["settings"]["error_rate"] == 0.3
    assert sets["MiniWiki"]["em"] == 1.0
    lines = results_table.worlds(result).splitlines()
    assert lines[2].startswith("| MiniWiki | 5 | scripted | 100.0 (56.6 to 100.0) |")
    assert len(lines) == 2 + 3 * 2
    assert str(out) in capsys.readouterr().out


def test_question_sets_have_rows_averages_and_a_card(
    tmp_path: Path, small_pack: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An agent without search has a card without a retriever.
    direct = Entry("direct answer", tuple(SIZES), {"agent": "direct", "model.name": "mini"})
    monkeypatch.setitem(AGENTS, "direct", direct)
    out = tmp_path / "evaluations.json"
    config = EvaluationsConfig(
        limit=2,
        agents=("random", "direct"),
        max_response_tokens=4,
        runs=tmp_path / "runs",
        out=out,
    )
    result = evaluations.evaluate_all(config)
    assert result == json.loads(out.read_text())
    table = results_table.question_sets(result)
    for name in SIZES:
        assert f"| {name} | 2 | random actions |" in table
    assert "| all questions (micro) | 14 | random actions |" in table
    assert "| mean of sets (macro) |  | random actions |" in table
    assert "| direct answer | 0.0 (0.0 to 21.5) |" in table
    assert result["card"]["split"] == ["test"]
    (corpus,) = result["card"]["corpus_hash"]
    assert f"| corpus hash | `{corpus}` |" in results_table.card(result)
    paper = results_table.paper(result)
    assert "| HotpotQA | 7,405 | 30.42 | 44.76 | 49.44 | 1.5 | 2 |  |" in paper


@pytest.fixture
def small_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions of each set over two passages."""
    pack = tmp_path / "pack"
    questions = [
        {"id": f"test_{i}", "question": f"who is {i}", "golden_answers": ["x"], "metadata": {}}
        for i in range(2)
    ]
    for name in ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle", "nq", "triviaqa", "popqa"):
        folder = pack / "questions" / name
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (pack / "corpus").mkdir()
    passages = [{"id": str(i), "contents": f'"Title {i}"\ntext of {i}'} for i in range(2)]
    (pack / "corpus" / "passages.jsonl").write_text(
        "".join(json.dumps(passage) + "\n" for passage in passages)
    )
    monkeypatch.setenv("AT2PO_DATA", str(pack))


def test_unknown_agents_are_refused_at_once() -> None:
    with pytest.raises(EvaluationError, match="react"):
        EvaluationsConfig(agents=("oracle",))


def test_an_agent_plays_worlds_or_question_sets() -> None:
    for entry in AGENTS.values():
        assert set(entry.sets) <= set(WORLDS) or tuple(entry.sets) == tuple(SIZES)
