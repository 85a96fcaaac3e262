"""Readers get one build, whole, or an error that says so, whatever happens to the files."""

from __future__ import annotations

import gc
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval import (
    IndexBuild,
    IndexFormatError,
    Passage,
    RetrievalError,
    UnknownNameError,
    build_index,
    open_retriever,
    store_passages,
)
from retrieval.storage import opening
from retrieval.storage.manifest import read_manifest
from tests.retrieval.written import rows

QUERIES = ["river w3", "city", "w7 w9 sea", "nothing of it"]


def corpus(tmp_path: Path, word: str, count: int = 40) -> Path:
    file = tmp_path / f"{word}.jsonl"
    places = ("river", "city", "sea")
    texts = [f"{places[i % 3]} w{i % 11} " + "and more " * (i % 5) for i in range(count)]
    file.write_text(rows(Passage(f"{word}{i}", f"{word} {i}", t) for i, t in enumerate(texts)))
    return file


def build(source: Path, out: Path, **settings) -> None:
    build_index(IndexBuild(corpus=str(source), out=out, **settings))


def titles(retriever) -> set[str]:
    found = retriever.search(["river city sea"], 5)[0]
    return {passage.title.split()[0] for passage in found}


@pytest.mark.parametrize("rebuilds", [1, 3])
def test_an_index_that_is_rebuilt_while_it_is_opened_is_opened_new(tmp_path, monkeypatch, rebuilds):
    old, new, out = corpus(tmp_path, "old"), corpus(tmp_path, "new"), tmp_path / "out"
    build(old, out)
    left = [rebuilds]

    def read_then_rebuild(folder, kind=None):
        manifest = read_manifest(folder, kind)
        if left[0]:
            left[0] -= 1
            build(new, out)
        return manifest

    monkeypatch.setattr(opening, "read_manifest", read_then_rebuild)
    assert titles(open_retriever(f"bm25:{out}")) == {"new"}


def test_folders_may_be_named_from_where_one_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(corpus(tmp_path, "old"), Path("out"))
    build(Path("out"), Path("out"))
    reader = open_retriever("bm25:out")
    pickled = pickle.dumps(reader)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert titles(pickle.loads(pickled)) == titles(reader) == {"old"}


def test_a_file_that_is_missing_is_told_once_not_waited_for(tmp_path):
    build(corpus(tmp_path, "old"), tmp_path / "out")
    (file,) = (tmp_path / "out").glob("data-*/floors.npy")
    file.unlink()
    os.mkfifo(file)  # opening it would wait for a writer
    with pytest.raises(IndexFormatError, match=r"floors\.npy: expected \d+ bytes, found none"):
        open_retriever(f"bm25:{tmp_path / 'out'}")


def test_a_pickled_reader_is_the_build_that_it_was(tmp_path):
    out = tmp_path / "out"
    build(corpus(tmp_path, "old"), out)
    reader = open_retriever(f"bm25:{out}")
    pickled = pickle.dumps(reader)
    build(corpus(tmp_path, "new"), out)
    again = pickle.loads(pickled)
    assert titles(again) == titles(reader) == {"old"}
    assert [passage.title for passage in again.passages] == [p.title for p in reader.passages]
    assert titles(open_retriever(f"bm25:{out}")) == {"new"}
    del reader, again
    build(corpus(tmp_path, "new"), out)  # tidies up what nobody reads any more
    assert len(list(out.glob("data-*"))) == 1
    with pytest.raises(IndexFormatError, match="built again meanwhile: open it by its name"):
        pickle.loads(pickled)
    build(corpus(tmp_path, "old"), out)
    assert titles(pickle.loads(pickled)) == {"old"}


def test_builds_beside_a_reader_leave_no_file_open(tmp_path):
    folder = tmp_path / "store"
    reader = store_passages([Passage("a", "b", "old")], folder)
    store_passages([Passage("a", "b", "new")], folder)
    gc.collect()  # of other tests
    opened = len(os.listdir("/dev/fd"))
    for _ in range(3):
        store_passages([Passage("a", "b", "new")], folder)
    assert len(os.listdir("/dev/fd")) <= opened and reader[0].text == "old"


# In a process of its own: a search that touched the lost part of a map would end it.
CUT_OFF = """
import sys
from pathlib import Path
from retrieval import IndexFormatError, RetrievalError, open_retriever
folder = Path(sys.argv[1])
for file in sorted(folder.glob("data-*/**/*.npy")) + sorted(folder.glob("data-*/**/*.bin")):
    content = file.read_bytes()
    reader = open_retriever(f"bm25:{folder}")
    expected = reader.search(["river", "city"], 3), reader.passages.find("old1")
    with file.open("r+b") as cut:
        cut.truncate(0)
    for act in (lambda: reader.search(["river", "city"], 3), lambda: reader.passages.find("old1")):
        try:
            act()
        except IndexFormatError as error:
            assert "found" in str(error), error
        else:
            raise SystemExit(f"{file} was not missed")
    with file.open("r+b") as whole:
        whole.write(content)
    assert (reader.search(["river", "city"], 3), reader.passages.find("old1")) == expected
print("all answered")
"""


def test_a_file_that_is_cut_off_under_a_reader_is_an_error_and_not_the_end(tmp_path):
    build(corpus(tmp_path, "old", 4000), tmp_path / "out")
    command = [sys.executable, "-c", CUT_OFF, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all answered\n"), done.stderr


def test_a_file_that_is_overwritten_under_a_reader_is_missed(tmp_path, monkeypatch):
    build(corpus(tmp_path, "old"), tmp_path / "out")
    reader = open_retriever(f"bm25:{tmp_path / 'out'}")
    (file,) = (tmp_path / "out").glob("data-*/data.csc.index.npy")
    content = file.read_bytes()
    monkeypatch.setattr(opening, "_CHECK_S", 0.0)
    os.utime(file)  # a copy of itself over itself changes its time and nothing else
    assert titles(reader) == {"old"}
    with file.open("r+b") as other:
        other.write(content[:-8] + b"\x00" * 8)
    with pytest.raises(IndexFormatError, match="expected the bytes that were built"):
        reader.search(["river"], 3)


DAMAGES = ["flip", "cut", "longer", "zeros", "noise", "gone", "folder", "swap"]


def harm(file: Path, others: list[Path], how: str, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content)) if content else 0
    if how == "flip" and content:
        content[place] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[place:]
    elif how == "longer":
        content += rng.randbytes(rng.randrange(1, 99))
    elif how == "zeros":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif how == "noise":
        content[place : place + 64] = rng.randbytes(len(content[place : place + 64]))
    elif how == "swap":
        content = bytearray(rng.choice(others).read_bytes())
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how != "gone":
        file.write_bytes(content)


def answers(folder: Path):
    reader = open_retriever(f"bm25:{folder}")
    return reader.search(QUERIES, 4), list(reader.passages), reader.passages.find("old7")


@pytest.mark.parametrize("times", [80, pytest.param(4000, marks=pytest.mark.slow)])
def test_damage_to_any_file_is_told_or_harmless(tmp_path, times):
    build(corpus(tmp_path, "old"), tmp_path / "whole")
    expected, rng = answers(tmp_path / "whole"), random.Random(0)
    files = [path for path in sorted((tmp_path / "whole").rglob("*")) if path.is_file()]
    for number in range(times):
        shutil.copytree(tmp_path / "whole", tmp_path / "out")
        file = tmp_path / "out" / files[number % len(files)].relative_to(tmp_path / "whole")
        how = rng.choice(DAMAGES)
        harm(file, files, how, rng)
        try:
            found = answers(tmp_path / "out")
        except RetrievalError as error:
            assert str(tmp_path) in str(error), (file.name, how)
        else:
            assert found == expected, (file.name, how)
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("times", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_damage_under_an_open_reader_is_told_or_harmless(tmp_path, monkeypatch, times):
    """Beyond the sample, in the arrays of an index that is open already."""
    monkeypatch.setattr(opening, "_CHECK_S", 1e9)
    build(corpus(tmp_path, "old", 400), tmp_path / "out")
    rng = random.Random(1)
    files = sorted(tmp_path.glob("out/data-*/**/*.npy")) + sorted(
        tmp_path.glob("out/data-*/**/text.bin")
    )
    told = 0
    for number in range(times):
        file, content = files[number % len(files)], files[number % len(files)].read_bytes()
        reader = open_retriever(f"bm25:{tmp_path / 'out'}")
        for _ in range(rng.choice([1, 50])):
            place = rng.randrange(0, len(content) - 8)
            with file.open("r+b") as damaged:
                damaged.seek(place)
                damaged.write(rng.randbytes(8))
        try:
            with np.errstate(all="ignore"):
                reader.search(QUERIES, 4)
            list(reader.passages)
            reader.passages.find("old7")
        except (IndexFormatError, UnknownNameError):
            told += 1
        with file.open("r+b") as whole:
            whole.write(content)
    assert told > times / 10


# A build that is killed at a random moment; its own corpus is big enough to be caught at work.
BUILD = """
import sys
from pathlib import Path
from retrieval import IndexBuild, build_index
while True:
    build_index(IndexBuild(corpus=sys.argv[1], out=Path(sys.argv[2])))
    print("built", flush=True)
"""


@pytest.mark.slow
def test_thirty_kills_leave_an_index_that_answers_and_files_of_others(tmp_path):
    old, out = corpus(tmp_path, "old", 3000), tmp_path / "parent" / "out"
    out.parent.mkdir()
    (out.parent / "thesis").write_text("years of work")
    build(old, out)
    store_passages([Passage("a", "b", "c")], out.parent / "neighbour")
    expected, rng = answers(out), random.Random(2)
    before = {
        path: path.read_bytes()
        for path in (out.parent / "neighbour").rglob("*.*")
        if path.is_file()
    }
    for _ in range(30):
        command = [sys.executable, "-c", BUILD, str(old), str(out)]
        builder = subprocess.Popen(command, stdout=subprocess.PIPE)
        builder.stdout.readline()
        for _ in range(50):
            assert answers(out) == expected  # beside the builds
            if rng.random() < 0.3:
                break
        builder.kill()
        builder.wait()
        builder.stdout.close()
        assert answers(out) == expected
    build(old, out)
    assert len(list(out.glob("data-*"))) == 1
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("data-")) == [
        ".lock",
        "manifest.json",
    ]
    assert (out.parent / "thesis").read_text() == "years of work"
    assert all(path.read_bytes() == content for path, content in before.items())
