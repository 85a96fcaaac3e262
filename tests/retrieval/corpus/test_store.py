from __future__ import annotations

import gzip
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import (
    CorpusFormatError,
    CorpusNotFoundError,
    IndexFormatError,
    Passage,
    Passages,
    StoredPassages,
    UnknownNameError,
    store_passages,
)
from retrieval.corpus.sources import open_passages, read_source
from retrieval.storage.manifest import read_manifest
from retrieval.storage.opening import open_built
from tests.retrieval.written import rows

FEW = [Passage("b", "Ada", "first\nsecond"), Passage("a", "", ""), Passage("ü", "Ö", "\ud800 \x00")]


def many(n):
    return [Passage(f"id{i}", f"Title {i}", f"text {i} " * (i % 7)) for i in range(n)]


@settings(max_examples=40)
@given(st.lists(st.builds(Passage, st.text(), st.text(), st.text()), unique_by=lambda p: p.id))
def test_what_was_stored_is_read_back(tmp_path_factory, passages):
    folder = tmp_path_factory.mktemp("store")
    stored = store_passages(passages, folder)
    assert list(stored) == passages
    assert stored.hash == Passages(passages).hash == read_manifest(folder).corpus
    assert all(stored.find(passage.id) == passage for passage in passages)
    assert stored[1:] == tuple(passages[1:]) and stored[::-2] == tuple(passages[::-2])
    assert list(pickle.loads(pickle.dumps(stored))) == passages


def test_positions_out_of_range_and_unknown_ids_are_refused(tmp_path):
    stored = store_passages(FEW, tmp_path)
    assert stored[-1] == FEW[2]
    for position in (3, -4):
        with pytest.raises(IndexError, match="below 3"):
            stored[position]
    for corpus in (stored, Passages(FEW)):
        with pytest.raises(UnknownNameError, match="'c'"):
            corpus.find("c")


def test_the_hash_tells_corpora_apart():
    hashes = {
        Passages(passages).hash
        for passages in (
            [Passage("1", "a", "b")],
            [Passage("1", "ab", "")],
            [Passage("1a", "", "b")],
            [Passage("1", "a", "b"), Passage("2", "", "")],
            [],
        )
    }
    assert len(hashes) == 5


def test_a_repeated_id_is_refused_and_the_old_store_stays(tmp_path):
    store_passages(FEW, tmp_path)
    with pytest.raises(CorpusFormatError, match="passage 40: expected a new id, found 'id3' of pa"):
        store_passages([*many(40), Passage("id3", "", "")], tmp_path)
    assert list(StoredPassages(tmp_path)) == FEW
    assert len(list(tmp_path.glob("data-*"))) == 1


def build_in_a_process(folder, how):
    """Replace the store by one of a thousand passages in a process that does not live to see it."""
    code = f"""
import os, resource, signal
from retrieval import Passage, store_passages
if {how!r} == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def passages():
    for i in range(100_000):
        if {how!r} == "killed" and i == 50_000:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Passage(str(i), "title", "text " * 20)
store_passages(passages(), {str(folder)!r})
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_full_disk_leaves_the_old_store(tmp_path):
    store_passages(FEW, tmp_path)
    done = build_in_a_process(tmp_path, "full")
    assert "OSError: [Errno 27]" in done.stderr
    assert list(StoredPassages(tmp_path)) == FEW
    assert len(list(tmp_path.glob("data-*"))) == 1


def test_a_kill_leaves_the_old_store_and_the_next_build_tidies_up(tmp_path):
    store_passages(FEW, tmp_path)
    assert build_in_a_process(tmp_path, "killed").returncode == -9
    assert len(list(tmp_path.glob("data-*"))) == 2
    assert list(StoredPassages(tmp_path)) == FEW
    assert list(store_passages(many(5), tmp_path)) == many(5)
    assert len(list(tmp_path.glob("data-*"))) == 1


def test_two_builds_of_one_folder_do_not_meet(tmp_path):
    def passages():
        yield FEW[0]
        with pytest.raises(IndexFormatError, match="found an index build by process"):
            store_passages(FEW, tmp_path)

    assert len(store_passages(passages(), tmp_path)) == 1


@pytest.mark.parametrize("name", ["text.bin", "starts.npy", "ids.npy", "positions.npy"])
@pytest.mark.parametrize("harm", ["missing", "cut off", "longer", "altered at the end"])
def test_harm_to_any_file_is_found_on_opening(tmp_path, name, harm):
    store_passages(many(1000), tmp_path)
    (file,) = tmp_path.glob(f"data-*/{name}")
    data = file.read_bytes()
    harmed = {
        "cut off": data[:-1],
        "longer": data + b"x",
        "altered at the end": data[:-1] + bytes([data[-1] ^ 1]),
    }
    file.unlink()
    if harm != "missing":
        file.write_bytes(harmed[harm])
    with pytest.raises(IndexFormatError, match=f"{name}: expected .* found .*; build it again"):
        StoredPassages(tmp_path)


def test_a_single_altered_bit_anywhere_is_found_by_verify(tmp_path):
    store_passages(many(20_000), tmp_path)
    (file,) = tmp_path.glob("data-*/text.bin")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 + 3000] ^= 1
    open_built(tmp_path).verify()
    file.write_bytes(data)
    with pytest.raises(IndexFormatError, match=r"text\.bin: expected the bytes that were built"):
        open_built(tmp_path).verify()


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(IndexFormatError, match=r"expected a folder with a manifest\.json"):
        StoredPassages(tmp_path)
    with pytest.raises(CorpusNotFoundError, match="at2po index build"):
        open_passages(tmp_path)


@pytest.mark.parametrize("harm", [lambda data: data[:-20], lambda data: b"not gzip" + data])
def test_an_incomplete_compressed_file_is_refused(tmp_path, harm):
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(harm(gzip.compress(rows(many(1000)).encode())))
    with pytest.raises(CorpusFormatError, match=r"c\.jsonl\.gz: expected a whole gzip file"):
        list(read_source(packed))


def test_a_data_set_is_read_with_either_columns(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = many(5)
    contents = {"id": [int(p.id[2:]) for p in rows], "contents": [p.contents for p in rows]}
    columns = {"id": [p.id for p in rows], "title": [p.title for p in rows]}
    columns["text"] = [p.text for p in rows]
    for name, table in (("contents", contents), ("columns", columns), ("bad", {"id": ["1"]})):
        datasets.Dataset.from_dict(table).save_to_disk(tmp_path / name)
    assert list(read_source(f"datasets:{tmp_path / 'columns'}")) == rows
    numbered = [Passage(str(i), p.title, p.text) for i, p in enumerate(rows)]
    assert list(read_source(f"datasets:{tmp_path / 'contents'}")) == numbered
    with pytest.raises(CorpusFormatError, match='row 0: expected {"id": "...", "contents"'):
        list(read_source(f"datasets:{tmp_path / 'bad'}"))


def test_a_data_set_that_cannot_be_read_as_asked_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"id": ["a"], "contents": ["T\nx"]})
    for name in ("alone", "corrupt", "with@sign"):
        table.save_to_disk(tmp_path / name)
    (tmp_path / "corrupt" / "state.json").write_text('{"a"')
    (tmp_path / "foreign").mkdir()
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "splits")
    for name in ("alone", "alone@train", "splits", "splits@train", "with@sign"):
        assert len(list(read_source(f"datasets:{tmp_path / name}"))) == 1
    for name in ("alone@test", "splits@test", "corrupt", "foreign", "missing"):
        with pytest.raises(CorpusNotFoundError, match=f"{name}.*: expected a data set"):
            list(read_source(f"datasets:{tmp_path / name}"))
