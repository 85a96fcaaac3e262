"""The load benchmark: what it counts as a right reply, and a short run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")

from benchmarks.errors import EvaluationError
from benchmarks.retrieval import load as retrieval_load
from retrieval import Passage
from tests.retrieval.written import rows

RIGHT = [Passage("1", "A", "x", 2.0), Passage("2", "B", "y", 1.0)]


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (RIGHT, "exact"),
        ([Passage("1", "A", "x", 2.00005), RIGHT[1]], "near"),
        ([Passage("1", "A", "x", 2.001), RIGHT[1]], "wrong"),
        (RIGHT[::-1], "wrong"),
        (RIGHT[:1], "wrong"),
        ([], "wrong"),
        ([*RIGHT, Passage("3", "C", "z", 0.5)], "wrong"),
    ],
)
def test_replies_are_told_apart(found, kind):
    assert retrieval_load.compare(found, RIGHT) == kind


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    corpus, questions = tmp_path / "corpus.jsonl", tmp_path / "questions.jsonl"
    names = [f"name{i}" for i in range(50)]
    texts = [f"{name} is a friend of {names[i - 43]}" for i, name in enumerate(names)]
    pairs = enumerate(zip(names, texts, strict=True))
    corpus.write_text(rows(Passage(str(i), name, text) for i, (name, text) in pairs))
    questions.write_text(
        "".join(json.dumps({"question": f"Who is {name}?"}) + "\n" for name in names)
    )
    return corpus, questions


@pytest.mark.slow
def test_a_short_run_loses_and_mixes_up_nothing(files, tmp_path, capsys):
    corpus, questions = files
    out = tmp_path / "results" / "load.json"
    words = f"--questions {questions} --clients 4 --seconds 1 --rounds 1 --max-batch 4 --out {out}"
    retrieval_load.main(["--retrievers", f"bm25:{corpus}", *words.split()])
    figures = json.loads(out.read_text())
    assert capsys.readouterr().out == out.read_text()
    assert str(tmp_path) not in out.read_text()
    (served,) = figures["retrievers"]
    assert (served["retriever"], served["documents"]) == ("BM25", 50)
    assert [run["max_batch"] for run in served["runs"]] == [1, 4]
    for run in served["runs"]:
        counts = run["replies"]
        assert counts.pop("exact") > 4
        assert set(counts.values()) == {0}
        assert 0 < run["p50_ms"] <= run["p99_ms"]
        assert run["server_cpus"] > 0
        assert run["server_resident_mib"][-1][1] > 10


@pytest.mark.parametrize("number", [{"clients": 0}, {"seconds": 0.0}, {"max_batch": 0}])
def test_numbers_out_of_range_are_refused(files, number):
    corpus, questions = files
    config = retrieval_load.LoadConfig(
        retrievers=(f"bm25:{corpus}",), questions=questions, **number
    )
    with pytest.raises(EvaluationError, match="expected clients"):
        retrieval_load.measure(config)


def test_a_file_without_questions_is_refused(files):
    files[1].write_text("")
    config = retrieval_load.LoadConfig(retrievers=(), questions=files[1])
    with pytest.raises(EvaluationError, match="expected lines"):
        retrieval_load.measure(config)
