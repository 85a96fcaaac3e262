from __future__ import annotations

import pytest

from retrieval import (
    BM25,
    BackendUnavailableError,
    CorpusMismatchError,
    Hybrid,
    IndexBuild,
    IndexSearch,
    NotEnoughMemoryError,
    Passage,
    Passages,
    SearchArgumentError,
    UnknownNameError,
    build_index,
    open_retriever,
    search_index,
)
from retrieval.lucene.java import find_java
from retrieval.storage import memory
from tests.retrieval.written import rows

CORPUS = Passages(Passage(str(i), f"T{i}", text) for i, text in enumerate(["river", "city", "sea"]))


class Fixed:
    """A retriever whose rankings are given as ids."""

    def __init__(self, *ids, passages=CORPUS):
        self.ids, self.passages, self.asked = ids, passages, []

    def search(self, queries, k):
        self.asked.append(k)
        return [[CORPUS.find(each) for each in self.ids[:k]] for _ in queries]


def corpus_file(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text(rows(CORPUS))
    return file


def test_reciprocal_ranks_are_added_up():
    hybrid = Hybrid([Fixed("0", "1"), Fixed("1", "2", "0")])
    first, second = hybrid.search(["a", "b"], 3)
    assert first == second
    assert [(each.id, each.score) for each in first] == [
        ("1", pytest.approx(1 / 62 + 1 / 61)),
        ("0", pytest.approx(1 / 61 + 1 / 63)),
        ("2", pytest.approx(1 / 62)),
    ]
    assert [passage.id for passage in hybrid.search(["a"], 1)[0]] == ["1"]


def test_a_passage_that_a_ranking_names_twice_counts_once():
    (found,) = Hybrid([Fixed("0", "1", "1", "1"), Fixed("0")]).search(["a"], 3)
    assert [(each.id, each.score) for each in found] == [
        ("0", pytest.approx(2 / 61)),
        ("1", pytest.approx(1 / 62)),
    ]


def test_a_tie_goes_to_the_earlier_retriever_and_each_is_asked_deeply():
    parts = Fixed("2"), Fixed("0")
    (found,) = Hybrid(parts, depth=50).search(["a"], 2)
    assert [each.id for each in found] == ["2", "0"]
    assert [part.asked for part in parts] == [[50], [50]]


def test_hybrids_of_one_retriever_or_of_two_corpora_are_refused():
    with pytest.raises(SearchArgumentError, match="two or more"):
        Hybrid([Fixed("0")])
    other = Passages([Passage("0", "T", "else")])
    with pytest.raises(CorpusMismatchError, match="retrievers of one corpus"):
        Hybrid([Fixed("0"), Fixed("0", passages=other)])
    with pytest.raises(SearchArgumentError, match="k >= 1"):
        Hybrid([Fixed("0"), Fixed("1")]).search(["a"], 0)


def test_names_open_retrievers(tmp_path):
    file, index = corpus_file(tmp_path), tmp_path / "a+b"  # a plus sign in a path does not matter
    build_index(IndexBuild(corpus=str(file), out=index))
    in_memory = open_retriever(f"bm25:{file}")
    assert isinstance(in_memory, BM25)
    hybrid = open_retriever(f"hybrid:bm25:{index}+bm25:{file}")
    assert isinstance(hybrid, Hybrid) and len(hybrid.retrievers) == 2
    ((found,),) = hybrid.search(["city"], 1)
    assert found.id == "1"
    settings = IndexSearch(retriever=f"bm25:{index}", queries=("sea", "river"), k=1)
    assert [[each.id for each in row] for row in search_index(settings)] == [["2"], ["0"]]
    again = open_retriever(f"hybrid:bm25:{index}+bm25:{file}")
    assert hybrid.index_hash == again.index_hash != in_memory.index_hash


def test_a_server_is_opened_by_its_address():
    client = pytest.importorskip("retrieval.http.client")
    retriever = open_retriever("http://127.0.0.1:9")
    assert isinstance(retriever, client.RemoteRetriever) and retriever.index_hash is None
    pinned = open_retriever("http://127.0.0.1:9#abc")
    assert (pinned.url, pinned.index_hash) == ("http://127.0.0.1:9", "abc")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bm52:x", "did you mean 'bm25'"),
        ("dens:x", "did you mean 'dense'"),
        ("htp://x", "did you mean 'http'"),
        ("bm25", "such as bm25:FOLDER"),
        ("", "such as bm25:FOLDER"),
        ("hybrid:bm25", "such as bm25:FOLDER"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(UnknownNameError, match=hint):
        open_retriever(name)


def test_memory_is_what_the_tightest_limit_leaves(tmp_path, monkeypatch):
    meminfo, limit, used = (tmp_path / name for name in ("meminfo", "max", "current"))
    meminfo.write_text("MemTotal: 4096 kB\nMemAvailable:   2048 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUPS", ((limit, used),))
    assert memory.available_bytes() == 2048 * 1024
    limit.write_text("1000000\n")
    used.write_text("400000\n")
    assert memory.available_bytes() == 600_000
    limit.write_text("max\n")
    assert memory.available_bytes() == 2048 * 1024
    memory.require_memory(2048 * 1024, "it", "rent more")
    with pytest.raises(NotEnoughMemoryError, match=r"expected 1\.00 GiB .* for it, found 0\.00 G"):
        memory.require_memory(2**30, "it", "rent more")


def java_home(folder, version):
    folder.mkdir(parents=True)
    (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return folder


def test_java_is_found_where_it_is_new_enough(tmp_path, monkeypatch):
    old = java_home(tmp_path / "jdk8", "1.8.0_402")
    monkeypatch.setattr("retrieval.lucene.java._PLACES", (str(tmp_path / "jvm"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(old))
    with pytest.raises(BackendUnavailableError, match=r"Java 21 or later .*found 8 in .*JAVA_HOME"):
        find_java()
    new = java_home(tmp_path / "jvm" / "temurin-25", "25.0.3")
    java_home(tmp_path / "jvm" / "aged", "17.0.15")
    assert find_java() == new
    chosen = java_home(tmp_path / "chosen", "21")
    monkeypatch.setenv("JAVA_HOME", str(chosen))
    assert find_java() == chosen


def test_without_pyserini_the_error_names_what_does_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = IndexBuild(corpus=str(corpus_file(tmp_path)), out=tmp_path / "i", kind="lucene")
    with pytest.raises(BackendUnavailableError, match="--style lucene"):
        build_index(settings)
    assert not list((tmp_path / "i").glob("data-*"))
