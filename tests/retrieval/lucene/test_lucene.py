"""Lucene itself, and our imitation of it on the data pack."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from retrieval import BM25, BackendUnavailableError, IndexBuild, Passages, build_index
from retrieval import open_retriever as open_
from retrieval.bm25.analysis import english
from retrieval.bm25.scoring import byte_lengths
from retrieval.lucene.java import find_java
from retrieval.text import to_nfc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def pyserini():
    if find_spec("pyserini") is None:
        pytest.skip("needs Pyserini: pip install at2po[lucene]")
    try:
        find_java()
    except BackendUnavailableError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def part(at2po_data, tmp_path_factory) -> tuple[Path, Passages]:
    """Every fifth passage of the data pack."""
    file = tmp_path_factory.mktemp("lucene") / "corpus.jsonl"
    with (at2po_data / "corpus" / "passages.jsonl").open(encoding="utf-8") as lines:
        file.write_text("".join(list(lines)[::5]), encoding="utf-8")
    return file, Passages.from_jsonl(file)


def test_analyzer_stemmer_and_lengths_are_those_of_lucene(part):
    from retrieval.lucene.index import _java_class

    lucene = _java_class("io.anserini.analysis.AnalyzerUtils")
    analyzer = _java_class("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
    texts = [passage.contents for passage in random.Random(3).sample(list(part[1]), 1500)]
    texts += [
        "İsmail ΟΔΟΣ’s 東京 カタカナ ひらがな 😀👨‍👩‍👧🇩🇪 a_b x·y 1,2;3 café\u0301 " + "x" * 300
    ]
    differing = [
        text
        for text in map(to_nfc, texts)  # which an index of ours does first, of either kind
        if list(lucene.analyze(analyzer, text).toArray()) != english(text)
    ]
    assert not differing
    small = _java_class("org.apache.lucene.util.SmallFloat")
    lengths = np.arange(0, 3000)
    theirs = [small.byte4ToInt(small.intToByte4(int(n))) for n in lengths]
    assert byte_lengths(lengths).tolist() == theirs


def test_top_three_and_scores_agree_with_lucene(part, at2po_data, tmp_path):
    file, passages = part
    build_index(IndexBuild(corpus=str(file), out=tmp_path / "index", kind="lucene"))
    lucene = open_(f"lucene:{tmp_path / 'index'}")
    questions = []
    for path in sorted((at2po_data / "questions").glob("*/test.jsonl")):
        with path.open(encoding="utf-8") as lines:
            questions += [json.loads(line)["question"] for line in lines][:60]
    ours = BM25(passages, style="lucene").search(questions, 3)
    theirs = lucene.search(questions, 3)
    alike = 0
    for mine, lucenes in zip(ours, theirs, strict=True):
        alike += [p.id for p in mine] == [p.id for p in lucenes]
        # Anserini spreads ties by fractions of a thousandth.
        assert [p.score for p in mine] == pytest.approx([p.score for p in lucenes], abs=2e-3)
    assert alike >= 0.95 * len(questions)
    assert lucene.search(["", "\x00", "\ud800", "zzzqqq"], 3) == [[], [], [], []]
