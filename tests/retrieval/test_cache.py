"""The cache never changes an answer, whatever happens to its file."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import sqlite3
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import Passage
from retrieval.cache import CachedRetriever
from retrieval.errors import SearchArgumentError


class Echo:
    """Finds passages that tell which query, `k` and index they were found for."""

    def __init__(self, name: str = "echo", words: int = 1) -> None:
        self.name, self.words = name, words
        self.asked: list[str] = []

    def search(self, queries, k):
        if k < 1:
            raise SearchArgumentError(f"expected k >= 1, found {k}")
        self.asked += queries
        return [
            [Passage(f"{self.name}{i}", q, f"{k} é\n" * self.words, 1 / (i + 3)) for i in range(k)]
            for q in queries
        ]


_opened: list[CachedRetriever] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def cached(
    path: Path, inner: Echo | None = None, identity: str = "index 1", **options
) -> CachedRetriever:
    _opened.append(CachedRetriever(inner or Echo(), path, identity, **options))
    return _opened[-1]


def file(path: Path) -> Path:
    return path / "cache-0.sqlite"


def test_known_queries_are_answered_without_the_retriever_by_a_later_object_too(tmp_path):
    first, again = cached(tmp_path), cached(tmp_path)
    fresh = first.search(["a", "b", "a"], 2)
    first.close()
    assert fresh == Echo().search(["a", "b", "a"], 2)
    assert first.retriever.asked == ["a", "b"]
    assert again.search(["b", "c", "a"], 2) == Echo().search(["b", "c", "a"], 2)
    assert again.retriever.asked == ["c"]
    assert (first.hits, first.misses, again.hits, again.misses) == (1, 2, 2, 1)


def test_another_k_identity_or_query_is_another_entry(tmp_path):
    cached(tmp_path).search(["a"], 2)
    for retriever, query, k in (
        (cached(tmp_path), "a", 3),
        (cached(tmp_path, Echo("other"), "index 2"), "a", 2),
        (cached(tmp_path), "A", 2),
    ):
        found = retriever.search([query], k)
        assert found == retriever.retriever.search([query], k)
        assert retriever.misses == 1


def test_space_and_unicode_composition_do_not_matter_with_or_without_an_entry(tmp_path):
    composed, spread = "caf\u00e9 au lait", "  cafe\u0301 \n au\tlait "
    warm = cached(tmp_path)
    assert warm.search([spread], 1) == warm.search([composed], 1) == Echo().search([composed], 1)
    assert (warm.hits, warm.misses) == (1, 1)


@settings(max_examples=15)
@given(
    calls=st.lists(
        st.tuples(st.lists(st.text(max_size=3), max_size=4), st.integers(1, 3)), max_size=6
    )
)
def test_answers_are_those_of_the_retriever(tmp_path_factory, calls):
    warm, bare = cached(tmp_path_factory.mktemp("cache")), Echo()
    for queries, k in calls:
        normal = [" ".join(unicodedata.normalize("NFC", query).split()) for query in queries]
        assert warm.search(queries, k) == bare.search(normal, k)
        assert warm.search(queries, k) == cached(warm.path).search(queries, k)
    warm.close()


def test_wrong_arguments_are_refused(tmp_path):
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(SearchArgumentError, match="expected a folder"):
        cached(tmp_path / "a file")
    with pytest.raises(SearchArgumentError, match="max_bytes >= 65536, found 1"):
        cached(tmp_path, max_bytes=1)
    with pytest.raises(SearchArgumentError, match="found an empty text"):
        cached(tmp_path, identity="")
    with pytest.raises(SearchArgumentError, match="k >= 1"):
        cached(tmp_path).search(["a"], 0)
    assert (tmp_path / "a file").read_text() == "mine"


def refused(path: Path) -> None:
    """Every answer is right, and comes from the retriever."""
    warm = cached(path)
    assert [warm.search(["a"], 2) for _ in range(2)] == [Echo().search(["a"], 2)] * 2
    assert (warm.hits, warm.misses) == (0, 2)
    warm.close()


@pytest.mark.parametrize(
    "content",
    [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000],
    ids=["text", "header only"],
)
def test_a_file_that_is_no_cache_is_refused_and_left_alone(tmp_path, caplog, content):
    file(tmp_path).write_bytes(content)
    refused(tmp_path)
    assert file(tmp_path).read_bytes() == content
    assert len(caplog.records) == 1 and "remove it, or" in caplog.text


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_not_a_byte_of_somebody_elses_database_changes(tmp_path, mode):
    with sqlite3.connect(file(tmp_path)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE entries (key, used, checksum, value)")
        database.execute("INSERT INTO entries VALUES ('theirs', 0, 0, 0)")
    database.close()
    content = file(tmp_path).read_bytes()
    refused(tmp_path)
    assert file(tmp_path).read_bytes() == content


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_files_that_sqlite_would_take_for_its_own_stay(tmp_path, end):
    beside = Path(f"{file(tmp_path)}{end}")
    beside.write_text("years of work")
    refused(tmp_path)
    assert beside.read_text() == "years of work"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.parent / "thesis")])
def test_a_folder_or_a_link_in_place_of_the_database_is_left_alone(tmp_path, make):
    (tmp_path / "thesis").write_text("")
    make(file(tmp_path))
    refused(tmp_path)
    assert (tmp_path / "thesis").read_text() == ""


def test_once_a_file_that_is_no_cache_is_removed_a_new_one_is_begun(tmp_path):
    file(tmp_path).write_bytes(b"x" * 5000)
    warm = cached(tmp_path)
    warm.search(["a"], 1)
    file(tmp_path).unlink()
    assert warm.search(["a"], 1) == warm.search(["a"], 1) == Echo().search(["a"], 1)
    assert (warm.hits, warm.misses) == (1, 2)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_a_cut_off_file_costs_entries_and_no_answer(tmp_path, share):
    queries = [f"query {i}" for i in range(200)]
    warm = cached(tmp_path)
    warm.search(queries, 3)
    warm.close()
    whole = file(tmp_path).read_bytes()
    file(tmp_path).write_bytes(whole[: int(len(whole) * share)])
    for _ in range(2):  # whole pages may still answer, never wrongly
        corrupt = cached(tmp_path)
        for query in queries:
            assert corrupt.search([query], 3) == Echo().search([query], 3)
        corrupt.close()


@settings(max_examples=15)
@given(data=st.data())
def test_flipped_bytes_never_give_a_wrong_answer(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    queries = [f"query {i}" for i in range(20)]
    warm = cached(folder)
    warm.search(queries, 2)
    warm.close()
    content = bytearray(file(folder).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=200)):
        content[place] ^= data.draw(st.integers(1, 255))
    file(folder).write_bytes(content)
    corrupt = cached(folder)
    assert corrupt.search(queries, 2) == Echo().search(queries, 2)
    assert corrupt.search(queries, 2) == Echo().search(queries, 2)
    corrupt.close()


def alter(path: Path, script: str) -> None:
    """Fill a cache with two entries, and change its database."""
    warm = cached(path)
    warm.search(["a", "b"], 1)
    warm.close()
    with sqlite3.connect(file(path)) as database:
        database.executescript(script)
    database.close()


@pytest.mark.parametrize(
    "column",
    [
        "used = 'text'",
        "used = x'ff'",
        "checksum = 'text'",
        "value = CAST(x'ff' AS TEXT)",
        "value = 5",
        "value = x'5b5d'",
    ],
)
def test_a_column_of_another_type_is_a_miss(tmp_path, column):
    alter(tmp_path, f"UPDATE entries SET {column}")
    later = cached(tmp_path)
    assert later.search(["a", "b"], 1) == later.search(["b", "a"], 1)[::-1]
    assert (later.hits, later.misses) == (2, 2)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE entries ADD COLUMN more",
        "ALTER TABLE entries RENAME TO others",
        # A table that never ends.
        "DROP TABLE entries; CREATE VIEW entries AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n) SELECT i AS key, 0.0 AS used, 'a' AS checksum, 'b' AS value FROM n",
        "CREATE VIRTUAL TABLE v USING fts5(text)",
    ],
)
def test_a_cache_with_a_schema_of_others_is_refused(tmp_path, statement):
    alter(tmp_path, statement)
    refused(tmp_path)


def test_whatever_the_database_raises_costs_no_answer(tmp_path, monkeypatch, caplog):
    for error in (TypeError, OverflowError, RecursionError, MemoryError, KeyError, AttributeError):
        warm = cached(tmp_path / error.__name__)

        def broken(*_, error=error):
            raise error("broken")

        monkeypatch.setattr(warm, "_read", broken)
        assert warm.search(["a"], 1) == Echo().search(["a"], 1)
    assert "continuing without the cache" in caplog.text


class Pinned:
    """A reader that never ends, which keeps the log of a database from being emptied."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path)
        self.rows = self.database.execute("SELECT key FROM entries")
        self.rows.fetchone()

    def close(self) -> None:
        self.rows.close()
        self.database.close()


def test_the_log_has_a_bound_even_if_somebody_keeps_it_from_being_emptied(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.cache_database._READERS_MS", 0)
    warm = cached(tmp_path, Echo(words=200), max_bytes=2**20)
    warm.search(["a", "b"], 1)
    pinned = Pinned(file(tmp_path))
    log = Path(f"{file(tmp_path)}-wal")
    sizes = []
    for i in range(150):
        assert warm.search([f"query {i}"], 3) == Echo(words=200).search([f"query {i}"], 3)
        sizes.append(log.stat().st_size)
    assert sizes[-1] == sizes[-2] <= 2**20 + 2**18
    pinned.close()
    warm.search(["c"], 1)
    assert log.stat().st_size < 2**18


def test_a_schema_that_is_not_even_text_costs_no_answer(tmp_path):
    warm = cached(tmp_path)
    warm.search(["a"], 1)
    warm.close()
    whole = file(tmp_path).read_bytes()
    start = whole.index(b"CREATE TABLE")
    for place in range(start, start + 30):  # what SQLite says of some holds the broken character
        folder = tmp_path / str(place)
        folder.mkdir()
        corrupt = bytearray(whole)
        corrupt[place] ^= 128
        file(folder).write_bytes(corrupt)
        again = cached(folder)
        assert again.search(["a"], 1) == Echo().search(["a"], 1)
        again.close()


def test_an_entry_under_another_key_is_dropped(tmp_path):
    swap = "(SELECT {0} FROM old WHERE old.rowid != entries.rowid)"
    columns = ", ".join(f"{name} = {swap.format(name)}" for name in ("checksum", "value"))
    old = "CREATE TEMP TABLE old AS SELECT checksum, value FROM entries"
    alter(tmp_path, f"{old}; UPDATE entries SET {columns}")
    later = cached(tmp_path)
    for _ in range(2):
        assert later.search(["a", "b"], 1) == Echo().search(["a", "b"], 1)
    assert (later.misses, later.hits) == (2, 2)


def test_the_file_stays_under_its_bound_and_keeps_what_was_used_last(tmp_path):
    now = [0.0]
    bound = 2**18
    warm = cached(tmp_path, Echo(words=200), max_bytes=bound, clock=lambda: now[0])
    warm.search(["often"], 1)
    for i in range(400):
        now[0] += 100
        assert warm.search([f"query {i}"], 1) == Echo(words=200).search([f"query {i}"], 1)
        warm.search(["often"], 1)
        assert file(tmp_path).stat().st_size <= bound
    assert warm.hits == 400
    assert warm.search(["query 399"], 1) and warm.hits == 401
    assert warm.search(["query 0"], 1) and warm.hits == 401


def test_an_answer_larger_than_the_cache_is_not_stored(tmp_path, caplog):
    warm = cached(tmp_path, Echo(words=50_000), max_bytes=2**16)
    for _ in range(2):
        assert warm.search(["a"], 1) == Echo(words=50_000).search(["a"], 1)
    assert "continuing without the cache" in caplog.text and "full" in caplog.text
    assert len(caplog.records) == 1


def test_a_folder_that_vanishes_costs_no_answer(tmp_path, caplog):
    warm = cached(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert warm.search(["a"], 1) == Echo().search(["a"], 1)
    assert "continuing without the cache" in caplog.text


def test_a_copy_opens_the_database_for_itself(tmp_path):
    warm = cached(tmp_path)
    warm.search(["a"], 1)
    copy = pickle.loads(pickle.dumps(warm))
    assert copy.search(["a"], 1) == Echo().search(["a"], 1)
    assert copy.hits == 1
    copy.close()


def _search_in_a_child(warm: CachedRetriever, seed: int, wrong) -> None:
    for i in range(60):
        queries = [f"query {(seed * 7 + i * j) % 50}" for j in range(3)]
        if warm.search(queries, 2) != Echo().search(queries, 2):
            wrong.value += 1
    if warm.hits + warm.misses != 1 + 180:  # the first was asked before the fork
        wrong.value += 1
    if len(warm._inherited) != 1:  # the parent's connection was used
        wrong.value += 1
    os._exit(0)  # as if killed: nothing is closed


def test_processes_may_share_the_database_even_one_opened_before_a_fork(tmp_path):
    fork = multiprocessing.get_context("fork")
    warm, wrong = cached(tmp_path), fork.Value("i", 0)
    warm.search(["query 0"], 2)
    children = [fork.Process(target=_search_in_a_child, args=(warm, i, wrong)) for i in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert wrong.value == 0
    queries = [f"query {i}" for i in range(50)]
    assert warm.search(queries, 2) == Echo().search(queries, 2)
    assert warm.hits > 40
    assert [entry.name for entry in tmp_path.glob("*.sqlite")] == ["cache-0.sqlite"]
