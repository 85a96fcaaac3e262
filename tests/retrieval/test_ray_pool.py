"""A retriever in processes of Ray, one of which dies."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time

import pytest

from retrieval import BM25, Passages, RetrievalError, UnknownNameError, open_retriever

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TEXTS = ["river of gold", "city of rivers", "the open sea", "gold mines", "a sea of cities"]
QUERIES = ["gold", "sea", "river", "city", "mines"]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.jsonl"
    rows = [{"id": str(i), "contents": f'"T{i}"\n{text}'} for i, text in enumerate(TEXTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def holders():
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdecimal():
            try:
                with open(f"/proc/{folder}/cmdline", "rb") as file:
                    if file.read().startswith(b"ray::_Holder"):
                        found.append(int(folder))
            except OSError:
                continue
    return found


def test_a_pool_answers_as_the_retriever_does_and_is_shared(corpus):
    plain = BM25(Passages.from_jsonl(corpus))
    pool = open_retriever(f"ray:2:bm25:{corpus}")
    pool.wait_until_ready(120)
    assert pool.search(QUERIES, 3) == plain.search(QUERIES, 3)
    assert pool.search(QUERIES[:1], 2) == plain.search(QUERIES[:1], 2)
    assert pool.search([], 3) == []
    before = holders()
    copy = pickle.loads(pickle.dumps(pool))
    assert copy.search(QUERIES, 1) == plain.search(QUERIES, 1)
    assert holders() == before


def test_a_process_that_dies_is_started_again(corpus):
    pool = open_retriever(f"ray:1:bm25:{corpus}")
    pool.wait_until_ready(120)
    expected = pool.search(QUERIES, 2)
    for process in holders():
        os.kill(process, signal.SIGKILL)
    time.sleep(0.5)
    pool.wait_until_ready(120)
    assert pool.search(QUERIES, 2) == expected


def test_errors_of_the_retriever_are_its_own(tmp_path):
    with pytest.raises(RetrievalError):
        open_retriever(f"ray:1:bm25:{tmp_path / 'nothing'}").search(["a"], 1)
    with pytest.raises(UnknownNameError, match="ray:4:bm25:FOLDER"):
        open_retriever("ray:bm25:x")
