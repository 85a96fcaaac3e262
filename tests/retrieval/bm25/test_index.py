from __future__ import annotations

import math
import pickle
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import BM25, Passage, Passages, SearchArgumentError

WORDS = "river city film award author bridge museum planet".split()
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


def corpus(contents):
    return Passages(Passage(str(i), f"title{i}", text) for i, text in enumerate(contents))


def reference_scores(passages, query, k1, b):
    """Lucene's BM25 formula, written out."""
    documents = [Counter(re.findall(r"\b\w\w+\b", p.contents.lower())) for p in passages]
    lengths = [sum(d.values()) for d in documents]
    mean_length = sum(lengths) / len(lengths)
    scores = [0.0] * len(documents)
    for word in re.findall(r"\b\w\w+\b", query.lower()):
        holding = sum(word in d for d in documents)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for i, document in enumerate(documents):
            saturation = document[word] + k1 * (1 - b + b * lengths[i] / mean_length)
            scores[i] += idf * document[word] / saturation
    return scores


@settings(max_examples=60)
@given(
    contents=st.lists(texts, min_size=1, max_size=12),
    queries=st.lists(texts, max_size=4),
    k=st.integers(1, 15),
)
def test_scores_and_order_are_those_of_the_formula(contents, queries, k):
    passages = corpus(contents)
    found = BM25(passages, k1=1.2, b=0.6).search(queries, k)
    assert len(found) == len(queries)
    for query, results in zip(queries, found, strict=True):
        scores = reference_scores(passages, query, k1=1.2, b=0.6)
        ranks = [int(p.id) for p in results]
        for i, passage in zip(ranks, results, strict=True):
            assert passage.score == pytest.approx(scores[i], rel=1e-5)
            assert (passage.title, passage.text) == (passages[i].title, passages[i].text)
        positive = [i for i, score in enumerate(scores) if score > 0]
        assert len(ranks) == min(k, len(positive))
        rest = set(positive) - set(ranks)
        worst = min((p.score for p in results), default=0.0)
        assert all(scores[i] <= worst * (1 + 1e-5) for i in rest)
        assert [(-p.score, int(p.id)) for p in results] == sorted(
            (-p.score, int(p.id)) for p in results
        )


def test_ties_are_in_corpus_order_even_across_the_cut():
    passages = Passages(Passage(str(i), "Same", "river bank") for i in range(50))
    bm25 = BM25(passages)
    for k in (1, 3, 49, 50, 80):
        (found,) = bm25.search(["river"], k)
        assert [p.id for p in found] == [str(i) for i in range(min(k, 50))]


def test_word_order_of_the_query_does_not_change_the_result():
    words = [f"word{i}" for i in range(60)]
    passages = corpus([" ".join(words[i:] * (i % 7 + 1)) for i in range(60)])
    forward, backward = BM25(passages).search([" ".join(words), " ".join(reversed(words))], 60)
    assert forward == backward  # to the last bit, or ties would depend on it


@pytest.mark.parametrize("query", ["", "   ", "the of and", "zzz unknown", "?!", "\ud800", "\x00"])
def test_a_query_without_a_known_word_finds_nothing(query):
    assert BM25(corpus(["the river of the city"])).search([query], 3) == [[]]


@pytest.mark.parametrize("contents", [[], ["", ""]])
def test_a_corpus_without_words_finds_nothing(contents):
    passages = Passages(Passage(str(i), "", text) for i, text in enumerate(contents))
    assert BM25(passages).search(["river"], 3) == [[]]


def test_titles_are_searched_case_does_not_matter_and_no_queries_give_no_lists():
    bm25 = BM25(Passages([Passage("0", "Ada Lovelace", "x"), Passage("1", "Other", "y")]))
    ((found,),) = bm25.search(["LOVELACE"], 5)
    assert found.id == "0" and found.score > 0
    assert bm25.search([], 5) == []


def test_a_huge_query_of_common_words_is_answered():
    bm25 = BM25(corpus(["river city"] * 2000))
    (found,) = bm25.search(["river city " * 10_000], 2)
    assert [p.id for p in found] == ["0", "1"]


def test_pickle_keeps_the_index():
    bm25 = BM25(corpus(["river city", "film"]))
    assert pickle.loads(pickle.dumps(bm25)).search(["film"], 3) == bm25.search(["film"], 3)


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None, True, float("nan")])
def test_a_number_of_passages_that_is_none_is_refused(k):
    with pytest.raises(SearchArgumentError, match="expected k >= 1, found"):
        BM25([Passage("0", "a", "b")]).search(["a"], k)


def test_numbers_of_numpy_are_numbers():
    bm25 = BM25([Passage("0", "river", "")], k1=np.float64(0.9), b=np.float32(0.4))
    assert len(bm25.search(["river"], np.int64(3))[0]) == 1


@pytest.mark.parametrize("k1", [-1.0, math.nan, math.inf, "0.9", None, True, 1e6])
def test_parameters_out_of_range_are_refused(k1):
    for wrong in ({"k1": k1}, {"b": 1.5}):
        with pytest.raises(SearchArgumentError, match="expected k1 >= 0"):
            BM25([Passage("0", "river", "")], **wrong)
