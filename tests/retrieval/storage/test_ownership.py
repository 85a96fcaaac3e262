"""A build removes and overwrites nothing but what builds of ours have written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from retrieval import (
    CorpusFormatError,
    IndexBuild,
    IndexFormatError,
    IndexInfo,
    Passage,
    StoredPassages,
    build_index,
    index_info,
    open_retriever,
    store_passages,
)
from retrieval.storage.generations import building
from tests.retrieval.written import rows, sealed

RECORDS = [("1", "Ada", "the first program"), ("2", "Faust", "a play by Goethe")]


def corpus(tmp_path: Path, records=RECORDS) -> Path:
    file = tmp_path / "corpus.jsonl"
    file.write_text(rows(Passage(*record) for record in records))
    return file


def build(source, out: Path, **settings):
    return build_index(IndexBuild(corpus=str(source), out=out, **settings))


def found(place: Path, query: str) -> list[str]:
    return [passage.id for passage in open_retriever(f"bm25:{place}").search([query], 3)[0]]


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder, byte for byte."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("kind", ["bm25", "passages"])
def test_an_index_is_rebuilt_from_its_own_passages(tmp_path, kind):
    wiki = tmp_path / "wiki"
    build(corpus(tmp_path), wiki)
    build(wiki, wiki, style="lucene", kind=kind)
    assert [passage.title for passage in StoredPassages(wiki)] == ["Ada", "Faust"]
    if kind == "bm25":
        assert found(wiki, "goethe") == ["2"]
    assert len(list(wiki.glob("data-*"))) == 1


@pytest.mark.parametrize("linked", [True, False])
def test_an_index_outlives_the_folder_that_its_corpus_came_from(tmp_path, linked, monkeypatch):
    if not linked:
        monkeypatch.setattr(
            os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "cross-device"))
        )
    first, second = tmp_path / "first", tmp_path / "second"
    build(corpus(tmp_path), first)
    build(first, second)
    pickled = pickle.dumps(open_retriever(f"bm25:{second}"))
    build(corpus(tmp_path, [("9", "Other", "words")]), first)
    assert found(second, "goethe") == ["2"] and found(first, "words") == ["9"]
    shutil.rmtree(first)
    assert pickle.loads(pickled).search(["goethe"], 1)[0][0].title == "Faust"
    second.rename(tmp_path / "moved")
    assert found(tmp_path / "moved", "goethe") == ["2"]


def test_the_hash_of_an_index_does_not_depend_on_where_its_passages_came_from(tmp_path):
    direct = build(corpus(tmp_path), tmp_path / "direct")
    store_passages([Passage(*record) for record in RECORDS], tmp_path / "store")
    indirect = build(tmp_path / "store", tmp_path / "indirect")
    again = build(corpus(tmp_path), tmp_path / "direct")
    assert direct["index_hash"] == indirect["index_hash"] == again["index_hash"]


def write(path: Path, text: str = "years of work") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def ours(folder: Path) -> Path:
    """The sub-folder of an index of ours."""
    build(corpus(folder.parent), folder)
    (data,) = folder.glob("data-*")
    return data


def link(path: Path, target: Path) -> None:
    if not target.exists():
        write(target / "thesis" if path.name.startswith("data-") else target)
    path.symlink_to(target)


def manifest_of_others(folder: Path) -> None:
    write(folder / "manifest.json", '{"name": "an extension", "data": "data-raw"}')
    write(folder / "data-raw" / "thesis")


def link_in_our_data(folder: Path) -> None:
    passages = ours(folder) / "passages"
    shutil.move(passages, folder.parent / "elsewhere")
    link(passages, folder.parent / "elsewhere")


def altered_manifest_of_ours(folder: Path) -> None:
    ours(folder)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"documents": 2', '"documents": 3'))


def backup(folder: Path) -> None:
    shutil.copytree(ours(folder.parent / "ours"), folder / "data-0123abcd")


FOREIGN = {
    "a data folder": lambda folder: write(folder / "data-raw" / "thesis"),
    "a well named data folder": lambda folder: write(folder / "data-0123abcd" / "thesis"),
    "a data file": lambda folder: write(folder / "data-0123abcd"),
    "a manifest of others": manifest_of_others,
    "a nested manifest": lambda folder: write(folder / "manifest.json", "[" * 100_000),
    "a folder as manifest": lambda folder: write(folder / "manifest.json" / "thesis"),
    "a lock of others": lambda folder: write(folder / ".lock"),
    "a link as lock": lambda folder: link(folder / ".lock", folder.parent / "thesis"),
    "a link to a folder": lambda folder: link(folder / "data-0123abcd", folder.parent / "data-raw"),
    "a hidden file": lambda folder: write(folder / ".env"),
    "a draft": lambda folder: write(folder / "manifest.json.new"),
    "a backup of our data": backup,
    "a note in our data": lambda folder: write(ours(folder) / "notes.txt"),
    "a folder in our data": lambda folder: write(ours(folder) / "data-raw" / "thesis"),
    "a link in our data": link_in_our_data,
    "an altered manifest of ours": altered_manifest_of_ours,
}


@pytest.mark.parametrize("put", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("kind", ["bm25", "passages"])
def test_a_folder_with_anything_of_others_is_refused_before_a_byte_is_written(tmp_path, put, kind):
    folder = tmp_path / "out"
    folder.mkdir()
    put(folder)
    source = corpus(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(IndexFormatError, match=r"expected .*found .*(choose another|move them)"):
        build(source, folder, kind=kind)
    assert snapshot(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("years of work")
    with pytest.raises(IndexFormatError, match="expected a folder, found a file"):
        build(corpus(tmp_path), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "years of work"


def test_what_somebody_adds_while_the_index_is_rebuilt_stays(tmp_path):
    build(corpus(tmp_path), tmp_path / "out")
    (data,) = (tmp_path / "out").glob("data-*")
    with building(tmp_path / "out", "bm25") as (new, manifest):
        manifest.corpus = "0" * 64
        (new / "file").write_text("new")
        (data / "notes.txt").write_text("years of work")
    assert (data / "notes.txt").read_text() == "years of work"
    with pytest.raises(IndexFormatError, match="found other files"):
        build(corpus(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    "left", ["nothing", "an empty mark", "a mark and files", "a manifest to be"]
)
def test_what_killed_builds_left_is_tidied_up(tmp_path, left):
    build(corpus(tmp_path), tmp_path / "out")
    killed = tmp_path / "out" / "data-0123abcd"
    killed.mkdir()
    if left != "nothing":
        text = "" if "empty" in left else "made by at2po index build as data-0123abcd\n"
        (killed / ".at2po").write_text(text)
    if left == "a manifest to be":
        (killed / "manifest.json.new").write_text("{")
        (killed / ".manifest.json.new.17.draft").write_text("{")
    if left == "a mark and files":
        (killed / "passages").mkdir()
        (killed / "passages" / "text.bin").write_bytes(b"half")
    build(corpus(tmp_path), tmp_path / "out")
    assert not killed.exists() and found(tmp_path / "out", "goethe") == ["2"]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
@pytest.mark.parametrize("kind", ["bm25", "passages"])
def test_an_empty_corpus_is_refused_and_the_old_index_stays(tmp_path, name, kind):
    build(corpus(tmp_path), tmp_path / "out")
    empty = tmp_path / "empty" / name
    empty.parent.mkdir()
    empty.write_bytes(b"")
    with pytest.raises(CorpusFormatError, match="expected at least one passage, found none; fetch"):
        build(empty, tmp_path / "out", kind=kind)
    assert found(tmp_path / "out", "goethe") == ["2"]
    with pytest.raises(CorpusFormatError, match="at least one passage"):
        open_retriever(f"bm25:{empty}")
    store_passages([], tmp_path / "store")
    with pytest.raises(CorpusFormatError, match="at least one passage"):
        build(tmp_path / "store", tmp_path / "out")


def test_damaged_passages_are_not_sealed_into_another_index(tmp_path):
    many = [Passage(f"id{i}", f"T{i}", f"text {i} " * 9) for i in range(20_000)]
    store_passages(many, tmp_path / "store")
    (text,) = tmp_path.glob("store/data-*/text.bin")
    content = bytearray(text.read_bytes())
    content[len(content) // 2 + 3000] ^= 1  # between the blocks that opening looks at
    text.write_bytes(content)
    with pytest.raises(IndexFormatError, match=r"text\.bin: expected the bytes that were built"):
        build(tmp_path / "store", tmp_path / "out")


@pytest.mark.parametrize(
    "wrong",
    [
        {"k1": -1.0},
        {"k1": float("nan")},
        {"k1": float("inf")},
        {"k1": 1e300},
        {"b": 1.5},
        {"b": -0.1},
        {"kind": "lucene", "k1": -1.0},
        {"kind": "dense", "max_tokens": 0},
        {"kind": "dense", "max_tokens": -5},
        {"kind": "dense", "seed": -1},
        {"kind": "dense", "seed": 2**70},
        {"kind": "dense", "model": ""},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_before_the_corpus_is_read(tmp_path, wrong):
    if wrong.get("kind") == "dense":
        pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="expected"):
        build(tmp_path / "nowhere.jsonl", tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_vectors_inside_the_index_are_refused(tmp_path):
    pytest.importorskip("faiss")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="expected --vectors outside the index"):
        build(corpus(tmp_path), out, kind="dense", vectors=out / "vectors.bin")
    assert not out.exists()


def test_a_change_of_any_field_of_a_manifest_is_refused(tmp_path):
    build(corpus(tmp_path), tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    whole = json.loads(path.read_text())
    changes = {
        "style": {**whole, "parameters": {**whole["parameters"], "style": "lucene"}},
        "k1": {**whole, "parameters": {**whole["parameters"], "k1": 0.91}},
        "documents": {**whole, "documents": 3},
        "facts": {**whole, "facts": {}},
        "seal": {**whole, "seal": "0" * 64},
        "format": {**whole, "format": 1},
        "true": {**whole, "format": True},
        "more": {**whole, "more": 1},
        **{f"{name} gone": {k: v for k, v in whole.items() if k != name} for name in whole},
        **{f"{name} null": {**whole, name: None} for name in whole},
        **{f"{name} list": {**whole, name: [1]} for name in whole},
        **{f"{name} text": {**whole, name: "x"} for name in whole},
    }
    for name, content in changes.items():
        path.write_text(json.dumps(content))
        with pytest.raises(IndexFormatError, match=r"manifest\.json: expected .* found"):
            open_retriever(f"bm25:{tmp_path / 'out'}")
            pytest.fail(name)


def test_a_manifest_without_a_seal_is_refused_and_its_folder_left_alone(tmp_path):
    """As earlier versions wrote it; other indexes may read its passages."""
    build(corpus(tmp_path), tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    whole = json.loads(path.read_text())
    del whole["seal"]
    path.write_text(json.dumps({**whole, "format": 1}))
    before = snapshot(tmp_path / "out")
    with pytest.raises(IndexFormatError, match="expected format 2, found 1"):
        open_retriever(f"bm25:{tmp_path / 'out'}")
    with pytest.raises(IndexFormatError, match="choose another folder"):
        build(corpus(tmp_path), tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


MALFORMED = {
    "parameters": [None, [], {"k1": "0.9"}, {"k1": -1}, {"style": "x"}, {"k1": None}, {"x": 1}],
    "files": [None, [], {"a": {}}, {"a": None}, {"/etc/passwd": {}}, {}],
    "corpus": [None, 5, "x"],
    "data": [None, 5, "..", "/tmp", "data-raw", ""],
    "documents": [None, "2", -1, 2.0, True],
    "kind": [None, 5],
    "facts": [None, []],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_fields_of_a_manifest_are_typed_even_if_it_is_sealed(tmp_path, name):
    build(corpus(tmp_path), tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    whole = json.loads(path.read_text())
    del whole["seal"]
    for wrong in MALFORMED[name]:
        path.write_text(sealed({**whole, name: wrong}))
        with pytest.raises(IndexFormatError, match="expected"):
            open_retriever(f"bm25:{tmp_path / 'out'}")
            pytest.fail(repr(wrong))


def test_a_file_is_no_folder_of_an_index(tmp_path):
    with pytest.raises(IndexFormatError, match=r"expected a folder with a manifest\.json"):
        index_info(IndexInfo(index=corpus(tmp_path)))


def test_a_pipe_called_manifest_is_not_waited_for(tmp_path: Path) -> None:
    out = tmp_path / "index"
    out.mkdir()
    os.mkfifo(out / "manifest.json")
    with pytest.raises(IndexFormatError, match="found a pipe or a device"):
        index_info(IndexInfo(index=out))
    with pytest.raises(IndexFormatError, match="found a pipe or a device"):
        build(corpus(tmp_path), out)


def test_a_build_whose_folder_was_renamed_leaves_the_one_in_its_place(tmp_path: Path) -> None:
    source, out = corpus(tmp_path), tmp_path / "index"
    with pytest.raises(IndexFormatError, match="found it renamed or removed"):
        with building(out, "passages") as (data, _):
            out.rename(tmp_path / "index.1")
            there = build(source, out)
            data.mkdir()
    assert index_info(IndexInfo(index=out)) == there
