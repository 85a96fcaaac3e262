from __future__ import annotations

import errno
import math
import os
import pickle
from collections import Counter

import numpy as np
import pytest

from retrieval import (
    BM25,
    CorpusMismatchError,
    IndexBuild,
    IndexInfo,
    Passage,
    Passages,
    build_index,
    index_info,
    open_retriever,
    store_passages,
)
from retrieval.bm25.analysis import english
from retrieval.bm25.index import _sums
from retrieval.bm25.scoring import byte_lengths


def zipf_texts(documents, *, seed, words=400, length=30):
    """Texts in which a few words are in most passages and most words in few."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, words + 1)
    drawn = rng.choice(words, (documents, length), p=chance / chance.sum())
    return [" ".join(f"w{word}" for word in row[: 1 + i % length]) for i, row in enumerate(drawn)]


def zipf_corpus(documents=3000, seed=0):
    texts = zipf_texts(documents, seed=seed)
    return [Passage(f"p{i}", f"w{i % 50}", text) for i, text in enumerate(texts)]


def lists_of(bm25):
    index = bm25._postings
    return {
        term: dict(
            zip(
                index.positions[index.starts[i] : index.starts[i + 1]].tolist(),
                index.weights[index.starts[i] : index.starts[i + 1]].tolist(),
                strict=True,
            )
        )
        for term, i in index.vocabulary.items()
    }


@pytest.mark.parametrize("style", ["bm25s", "lucene"])
def test_skipping_long_lists_changes_no_result(style):
    bm25 = BM25(zipf_corpus(), style=style)
    lists = lists_of(bm25)
    skipped = 0
    for number, query in enumerate(zipf_texts(120, seed=1, length=8)):
        terms = Counter(bm25.scoring.terms(query))
        scores = Counter()
        for term, count in terms.items():
            for position, weight in lists.get(term, {}).items():
                scores[position] += weight * count
        if style == "lucene":
            scores = {position: float(np.float32(score)) for position, score in scores.items()}
        k = (1, 3, 10, 11, 50)[number % 5]
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
        (found,) = bm25.search([query], k)
        assert [(p.id, p.score) for p in found] == [(f"p{i}", score) for i, score in best]
        known = [(bm25._postings.vocabulary[t], n) for t, n in terms.items() if t in lists]
        known.sort(key=lambda term: float(bm25._postings.ceilings[term[0]]) * term[1])
        skipped += bm25._spared(known, k)[0]
    assert skipped > 20  # or this test has shown nothing


def test_sums_are_the_same_by_sorting_and_by_counting():
    rng = np.random.default_rng(0)
    few = [np.unique(rng.integers(0, 10**6, 200)).astype(np.int32) for _ in range(4)]
    lists = [(positions, rng.random(len(positions))) for positions in few]
    hits, sums = _sums(lists, 0.0)
    expected = np.zeros(10**6)
    for positions, weights in lists:
        expected[positions] += weights
    assert np.array_equal(hits, np.flatnonzero(expected))
    assert np.allclose(sums, expected[hits], rtol=1e-12)


@pytest.mark.parametrize("style", ["bm25s", "lucene"])
def test_an_index_on_disk_answers_like_one_in_memory(tmp_path, style):
    passages = zipf_corpus(500)
    store_passages(passages, tmp_path / "passages")
    settings = {"corpus": str(tmp_path / "passages"), "k1": 1.2, "b": 0.7, "style": style}
    info = build_index(IndexBuild(out=tmp_path / "index", **settings))
    bm25 = open_retriever(f"bm25:{tmp_path / 'index'}")
    queries = [*zipf_texts(40, seed=2, length=6), "", "unknown"]
    expected = BM25(passages, k1=1.2, b=0.7, style=style).search(queries, 7)
    assert bm25.search(queries, 7) == expected
    assert pickle.loads(pickle.dumps(bm25)).search(queries, 7) == expected
    assert bm25.index_hash == info["index_hash"]
    parameters = {"k1": 1.2, "b": 0.7, "style": style, "analyzer_version": 2}
    assert info["parameters"] == parameters
    assert (info["documents"], info["corpus_hash"]) == (500, Passages(passages).hash)


def test_bm25s_gives_the_same_arrays_and_opens_the_same_files(tmp_path):
    bm25s = pytest.importorskip("bm25s")
    passages = zipf_corpus(400)
    tokens = bm25s.tokenize(
        [passage.contents for passage in passages], stopwords="en", show_progress=False
    )
    theirs = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend="numpy")
    theirs.index(tokens, show_progress=False)
    ours = lists_of(BM25(passages))
    data, indices, starts = (theirs.scores[name] for name in ("data", "indices", "indptr"))
    for term, i in tokens.vocab.items():
        if term:  # bm25s has an empty one, for queries without a known word
            span = slice(starts[i], starts[i + 1])
            places = zip(indices[span].tolist(), data[span].tolist(), strict=True)
            assert ours[term] == dict(places)  # to the last bit
    store_passages(passages, tmp_path / "passages")
    build_index(IndexBuild(corpus=str(tmp_path / "passages"), out=tmp_path / "index"))
    (data_folder,) = (tmp_path / "index").glob("data-*")
    opened = bm25s.BM25.load(data_folder, mmap=True)
    query = bm25s.tokenize(["w3 w77 w120"], stopwords="en", show_progress=False)
    _, scores = opened.retrieve(query, k=5, show_progress=False)
    (found,) = BM25(passages).search(["w3 w77 w120"], 5)
    assert scores[0].tolist() == pytest.approx([passage.score for passage in found], rel=1e-6)


def test_lucene_style_is_its_formula_with_lengths_of_one_byte():
    passages = [
        Passage(str(i), "Rivers", "the river's banks flowed " + "deep waters " * n)
        for i, n in enumerate((0, 3, 30, 70, 200))
    ]
    lengths = [len(english(passage.contents)) for passage in passages]
    mean = sum(lengths) / len(lengths)
    (found,) = BM25(passages, style="lucene").search(["Water flowing"], 5)
    idf = {"water": math.log(1 + 1.5 / 4.5), "flow": math.log(1 + 0.5 / 5.5)}
    for passage in found:
        i = int(passage.id)
        rounded = int(byte_lengths(np.array([lengths[i]]))[0])
        norm = 0.9 * (1 - 0.4 + 0.4 * rounded / mean)
        counts = Counter(english(passages[i].contents))
        score = sum(idf[t] * counts[t] / (counts[t] + norm) for t in ("water", "flow"))
        assert passage.score == pytest.approx(score, rel=1e-5)
    assert len(found) == 5 and lengths[4] != byte_lengths(np.array([lengths[4]]))[0]


@pytest.mark.parametrize("style", ["bm25s", "lucene"])
@pytest.mark.parametrize("k1", [0.0, 0.9])
@pytest.mark.parametrize("words", [[""], ["", "river"]])
def test_degenerate_corpora_are_indexed_on_disk(tmp_path, style, k1, words):
    store_passages([Passage(str(i), word, word) for i, word in enumerate(words)], tmp_path / "p")
    build_index(IndexBuild(corpus=str(tmp_path / "p"), out=tmp_path / "i", style=style, k1=k1))
    (found,) = open_retriever(f"bm25:{tmp_path / 'i'}").search(["river"], 3)
    assert [passage.title for passage in found] == words[1:]


def test_another_corpus_is_refused(tmp_path):
    passages = zipf_corpus(20)
    store_passages(passages, tmp_path / "passages")
    index = tmp_path / "index"
    build_index(IndexBuild(corpus=str(tmp_path / "passages"), out=index))
    other = tmp_path / "other"
    store_passages([*passages[:-1], Passage("p19", "", "one word changed")], other)
    with pytest.raises(CorpusMismatchError, match="20 passages, found .* with 20; build the index"):
        open_retriever(f"bm25:{index}", corpus=other)
    with pytest.raises(CorpusMismatchError, match="expected the 20 passages that it was built"):
        BM25.open(index, passages[:5])


def test_a_full_disk_leaves_the_old_index(tmp_path, monkeypatch):
    settings = IndexBuild(corpus=str(tmp_path / "passages"), out=tmp_path / "index")
    store_passages(zipf_corpus(200), tmp_path / "passages")
    before = build_index(settings)["index_hash"]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        build_index(settings)
    info = index_info(IndexInfo(index=tmp_path / "index", verify=True))
    assert info["index_hash"] == before
    assert len(list((tmp_path / "index").glob("data-*"))) == 1


def test_chunks_of_passages_make_one_index(monkeypatch):
    passages = zipf_corpus(300)
    whole = lists_of(BM25(passages))
    monkeypatch.setattr("retrieval.bm25.postings._CHUNK", 64)
    monkeypatch.setattr("retrieval.bm25.postings._SPILL_BYTES", 1)
    assert lists_of(BM25(passages)) == whole
