from __future__ import annotations

import json
import random
import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from retrieval import BM25, Passage
from retrieval.bm25.analysis import (
    _LATIN_TOKEN,
    _NOT_LATIN,
    _TOKEN,
    _known_term,
    english,
    tokens_of,
    words,
)
from retrieval.bm25.porter import stem
from retrieval.bm25.scoring import byte_lengths
from retrieval.cache import CachedRetriever

# From Porter's paper, and what Lucene 9 gives for the same words.
STEMS = {
    "caresses ponies ties caress cats": "caress poni ti caress cat",
    "feed agreed plastered bled motoring sing": "feed agre plaster bled motor sing",
    "conflated troubled sized hopping tanned falling": "conflat troubl size hop tan fall",
    "hissing fizzed failing filing happy sky": "hiss fizz fail file happi sky",
    "relational conditional rational valenci digitizer": "relat condit ration valenc digit",
    "conformabli radicalli differentli vileli analogousli": "conform radic differ vile analog",
    "vietnamization predication operator feudalism": "vietnam predic oper feudal",
    "decisiveness hopefulness callousness formaliti": "decis hope callous formal",
    "sensitiviti sensibiliti triplicate formative formalize": "sensit sensibl triplic form formal",
    "electriciti electrical hopeful goodness revival": "electr electr hope good reviv",
    "allowance inference airliner gyroscopic adjustable": "allow infer airlin gyroscop adjust",
    "defensible irritant replacement adjustment dependent": "defens irrit replac adjust depend",
    "adoption homologou communism activate angulariti": "adopt homolog commun activ angular",
    "homologous effective bowdlerize probate rate cease": "homolog effect bowdler probat rate ceas",
    "controll roll is as a apologies logi": "control roll is as a apolog logi",
    "naïve études yes by": "naïv étude ye by",
}


@pytest.mark.parametrize(("given", "stems"), STEMS.items())
def test_words_are_stemmed_as_by_porter(given, stems):
    assert [stem(word) for word in given.split()] == stems.split()


@given(st.text())
def test_any_text_is_stemmed(text):
    assert len(stem(text)) <= len(text) + 1


# What Anserini's DefaultEnglishAnalyzer gave for these texts.
TERMS = [
    ("The City's foo:bar U.S.A. o'Neil's 3,000.5", "citi foo:bar u.s.a o'neil 3,000.5"),
    ("naïve generational studies' apologies", "naïv gener studi apolog"),
    ("東京 カタカナ wi-fi can't C++ 😀 a_b x", "東 京 カタカナ wi fi can't c 😀 a_b x"),
]


@pytest.mark.parametrize(("text", "terms"), TERMS)
def test_english_is_cut_as_by_lucene(text, terms):
    assert english(text) == terms.split()


def test_long_words_are_not_kept():
    """A client could fill half a gigabyte with words of 255 characters."""
    before = _known_term.cache_info().misses
    assert english(f"{'x' * 33}ing {'z' * 255}") == ["x" * 33 + "ing", "z" * 255]
    assert _known_term.cache_info().misses == before


def test_symbols_are_those_of_unicode_12_and_long_words_are_cut():
    assert english("C♯ ★ #\ufe0f\u20e3 ‼ — ☎\ufe0f") == ["c", "♯", "★", "#️⃣", "‼", "☎️"]
    assert [len(term) for term in english("x" * 600)] == [255, 255, 90]


def test_letters_are_lowered_one_at_a_time_as_in_java():
    assert english("İsmail ΟΔΟΣ") == ["ismail", "οδοσ"]


def test_words_are_those_of_bm25s():
    bm25s = pytest.importorskip("bm25s")
    text = "The café of A. B., it's no 3,000 x_y; Straße THIS was 東京 not-that"
    tokens = bm25s.tokenize([text], lower=True, stopwords="en", show_progress=False)
    named = {number: token for token, number in tokens.vocab.items()}
    assert words(text) == [named[number] for number in tokens.ids[0]]


@given(st.text(st.sampled_from("abzé_AZ019·'.,;:’‘- ª\u2014s\n\x00¼"), max_size=30))
def test_the_quick_way_for_latin_texts_cuts_like_the_general_one(text):
    assert not _NOT_LATIN.search(text)
    assert _LATIN_TOKEN.findall(text) == _TOKEN.findall(text)


def test_the_quick_way_cuts_real_text_like_the_general_one(at2po_data):
    with (at2po_data / "corpus" / "passages.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["contents"] for line in lines]
    sample = [text for text in random.Random(7).sample(texts, 1000) if not _NOT_LATIN.search(text)]
    assert len(sample) > 800
    assert [_LATIN_TOKEN.findall(text) for text in sample] == [_TOKEN.findall(t) for t in sample]


def test_lengths_are_rounded_as_lucene_rounds_them():
    exact = np.arange(41)
    assert byte_lengths(exact).tolist() == exact.tolist()
    # Pairs of SmallFloat.byte4ToInt(SmallFloat.intToByte4(n)).
    assert byte_lengths(np.array([41, 42, 43, 55, 56, 57, 100, 119, 120, 1000])).tolist() == [
        *(40, 42, 42, 54, 56, 56, 96, 112, 120, 984)
    ]


@pytest.mark.parametrize("cut", [words, english])
def test_composed_and_decomposed_texts_have_the_same_terms(cut):
    for text in ("Café Ångström, naïve coöperation", "Phở bò Việt Nam", "한국어 각"):
        spread = unicodedata.normalize("NFD", text)
        assert spread != text and cut(spread) == cut(text)


@pytest.mark.parametrize("style", ["bm25s", "lucene"])
@pytest.mark.parametrize(("text", "query"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_accent_is_found_in_either_form_with_or_without_a_cache(tmp_path, style, text, query):
    titles = ["Café Müller", "Phở bò", "Coffee shop"]
    passages = [
        Passage(str(i), unicodedata.normalize(text, title), "") for i, title in enumerate(titles)
    ]
    bm25 = BM25(passages, style=style)
    asked = [unicodedata.normalize(query, title) for title in titles]
    found = bm25.search(asked, 1)
    assert [row[0].id for row in found] == ["0", "1", "2"]
    cached = CachedRetriever(bm25, tmp_path, "i")
    assert cached.search(asked, 1) == cached.search(asked, 1) == found
    cached.close()


@pytest.mark.parametrize("cut", [words, english])
@pytest.mark.parametrize(
    "part", "_ \u203f \u203f\u0301 _\u0301 a: 1, \u0301 a' # \U0001f1e9 's \u200d".split()
)
@pytest.mark.parametrize("end", ["", "!", "й", "\u0301\u0323"])
def test_long_texts_of_anything_take_linear_time(cut, part, end):
    cut(part * 100_000 + end)  # what grows with the square takes minutes


def test_connectors_join_and_are_skipped_as_before():
    for text in ("a__b", "__a", "a__", "__ a", "_a_ _b_", "a_1 _", "__!a", "_\u0301_ж", "‿ж‿ ‿!ж"):
        old = OLD_TOKEN.findall(text)
        assert tokens_of(text) == old


# The pattern without what keeps it from trying every connector of a run.
OLD_TOKEN = regex.compile(_TOKEN.pattern.replace("++(*SKIP)(*FAIL)", "{0}(*FAIL)"))
