from __future__ import annotations

import json

import pytest

from at2po_envs.question_sets.questions import Question
from benchmarks.errors import BenchmarkError
from benchmarks.retrieval import speed
from benchmarks.retrieval.measure import beside_bm25s, build, passages, search
from benchmarks.retrieval.quality import agreement, ensure, measure
from benchmarks.retrieval.speed import SpeedConfig
from retrieval import BM25, IndexBuild, Passage, Passages
from tests.retrieval.written import rows

CORPUS = Passages(
    [
        Passage("0", "Ada Lovelace", "wrote a program for the engine in London"),
        Passage("1", "Charles Babbage", "designed the engine"),
        Passage("2", "London", "a city on the river"),
        *(Passage(str(i), f"Filler {i}", "engine engine engine program") for i in range(3, 9)),
    ]
)
QUESTIONS = [
    Question("a", "London river", ("City",), {"supporting_titles": ["London", "Paris"]}),
    Question("b", "Ada program", ("a Charles",), {"supporting_titles": ["Ada Lovelace"]}),
    Question("c", "engine of Babbage", ("yes",), {}),
]


def test_answers_and_titles_found_are_counted():
    figures = measure({"bm25": BM25(CORPUS)}, {"one": QUESTIONS, "none": []})
    scored = figures["retrievers"]["bm25"]["one"]
    assert (scored["questions"], scored["questions_with_answer"]) == (3, 2)
    assert scored["answer_recall@3"] == scored["answer_recall@10"] == 0.5
    assert scored["title_recall@3"] == 0.75
    assert scored["answer_recall@3_interval"][0] < 0.5 < scored["answer_recall@3_interval"][1]
    assert figures["retrievers"]["bm25"]["all"] == scored
    assert figures["retrievers"]["bm25"]["none"]["questions"] == 0
    assert "agreement_with_lucene" not in figures
    with pytest.raises(BenchmarkError, match="expected questions"):
        measure({"bm25": BM25(CORPUS)}, {"one": []})


def test_agreement_tells_ties_from_other_differences():
    def ranking(**scores):
        return [Passage(name, "", "", score) for name, score in scores.items()]

    base = ranking(a=3.0, b=2.0, c=2.0, d=1.0)
    pairs = [
        (base, base),
        (base, ranking(a=3.0, c=2.0, b=1.999999, d=1.0)),
        (base, ranking(d=9.0, a=3.0, b=2.0)),
        (base, ranking(a=3.0)),
        ([], []),
    ]
    found = agreement(pairs)
    assert (found["same_top3"], found["same_top3_set"]) == (0.4, 0.6)
    assert (found["differing"], found["differing_by_order_of_ties_only"]) == (3, 1)
    assert found["largest_score_difference"] == 6.0


def test_an_index_is_built_once_for_a_corpus(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(rows(CORPUS))
    store = IndexBuild(corpus=str(corpus), out=tmp_path / "p", kind="passages")
    index = IndexBuild(corpus=str(tmp_path / "p"), out=tmp_path / "i")
    ensure(store)
    first = ensure(index)
    assert ensure(index)["facts"] == first["facts"]  # its time among them
    (tmp_path / "p" / "manifest.json").unlink()
    corpus.write_text(rows(CORPUS[:4]))
    ensure(store)
    assert ensure(index)["documents"] == 4


def test_speed_is_measured_on_a_small_world(tmp_path):
    folder, index = str(tmp_path / "passages"), str(tmp_path / "index")
    stored = passages(folder, 300, "")
    assert stored["passages"] == 300 and stored["bytes"] > stored["bytes_of_text"] > 10_000
    build(folder, index, "bm25", "bm25s")
    asked = ["Who wrote the book?"] * 64
    found = search(f"bm25:{index}", asked, 0.01)
    assert found["batch_queries_per_second"] > 0 and found["rss_mib"] > found["anonymous_mib"]
    beside = beside_bm25s(index, asked, 0.01)
    assert beside["our_time_over_bm25s-numpy"] > 0


def test_a_figure_is_measured_in_a_process_of_its_own_and_kept(tmp_path, monkeypatch, capsys):
    out, folder = tmp_path / "out.json", str(tmp_path / "p")
    figures = [("stored", passages, (folder, 300, "")), ("wrong", passages, (folder, -5, ""))]
    monkeypatch.setattr(speed, "plan", lambda *_: figures)
    words = ["--quick", "--out", str(out)]
    with pytest.raises(BenchmarkError, match="expected passages to be measured, found exit code 1"):
        speed.main(words)
    kept = json.loads(out.read_text())["corpora"]["miniwiki-20k"]
    assert kept.keys() == {"stored"} and kept["stored"]["passages"] == 300
    figures[:] = [("stored", passages, ("never", "looked", "at"))]
    speed.main(words)
    assert json.loads(capsys.readouterr().out)["corpora"]["miniwiki-20k"] == kept


def test_the_plan_measures_what_is_installed_in_order():
    names = [name for name, _, _ in speed.plan(SpeedConfig(), "miniwiki-20k", 300)]
    assert names[:3] == ["passages", "bm25 build", "bm25 search"] and "bm25s build" in names
