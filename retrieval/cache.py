"""A persistent cache in front of any retriever, shared by all processes of a machine."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retrieval.errors import SearchArgumentError
from retrieval.passages import Passage, Retriever

_log = logging.getLogger(__name__)

_APPLICATION = 0x41543250  # "AT2P": marks our files in SQLite's header
_FORMAT = 1  # of the table and of the values in it; another one is another cache
_FILE = re.compile(r"cache-(\d+)\.sqlite")
_TOUCH_S = 60.0  # how exactly the last use is known; finer would turn every read into a write
_FULL, _KEPT = 0.9, 0.7  # shares of the bound that start an eviction and that one leaves
_BUSY_S = 5.0  # wait for another process's write, then do without the cache
_SMALLEST = 2**16

_Key = bytes
_Answers = dict[str, list[Passage]]


class CachedRetriever:
    """Answers known queries from a SQLite database and asks the retriever for the others.

    An entry is found by the SHA-256 of identity, ``k`` and normalised query, and read only if its
    checksum fits. The retriever is asked for the normalised query too (Unicode NFC, white space
    collapsed), so that an answer never depends on what is in the cache.

    The database (write-ahead log) may be used by many processes at a time. If it turns out to be
    torn, or not ours, it is left where it is and a file with the next number takes its place; a
    full disk or a locked file costs speed, never an answer.

    Args:
        retriever: Asked for what is not in the cache.
        path: Folder of the cache; made if missing.
        identity: Hash of the index and parameters of the retriever: whatever decides its answers.
        max_bytes: Size that the database is kept under by dropping what was not used for longest,
            >= 65536; its write-ahead log may add some MiB.
        clock: Seconds since the epoch.

    Attributes:
        hits: Queries answered from the cache by this object.
        misses: Queries passed on to the retriever.

    Raises:
        SearchArgumentError: If an argument is out of range or ``path`` is no folder.
    """

    def __init__(
        self,
        retriever: Retriever,
        path: str | Path,
        identity: str,
        max_bytes: int = 2**30,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make the folder; the database is opened by the first search."""
        self.retriever, self.path, self.identity = retriever, Path(path), identity
        self.max_bytes, self._clock = max_bytes, clock
        self.hits = self.misses = 0
        if not identity:
            raise SearchArgumentError(
                "expected the hash of the index and the retriever's parameters as identity, found "
                "an empty text; answers of different indexes would mix"
            )
        if max_bytes < _SMALLEST:
            raise SearchArgumentError(f"expected max_bytes >= {_SMALLEST}, found {max_bytes}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise SearchArgumentError(
                f"expected a folder for the cache at {path}, found a file; choose another path"
            ) from None
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._owner = self._number = 0  # process that opened the database, number of its file
        self._complaint = ""
        self._inherited: list[sqlite3.Connection] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments: the copy opens the database for itself."""
        arguments = (self.retriever, self.path, self.identity, self.max_bytes)
        return type(self), arguments

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank passages for each query; see `Retriever.search`."""
        normal = [_normalise(query) for query in queries]
        keys = {query: self._key(query, k) for query in normal}
        with self._lock:
            known = self._guarded(lambda database: self._read(database, keys)) or {}
        missing = [query for query in keys if query not in known]
        if missing:
            found = self.retriever.search(missing, k)
            fresh = dict(zip(missing, found, strict=True))
            known |= fresh
        with self._lock:
            self.misses += len(missing)
            self.hits += len(queries) - len(missing)
            if missing:
                entries = [(keys[query], _encode(each)) for query, each in fresh.items()]
                self._guarded(lambda database: self._write(database, entries))
        return [list(known[query]) for query in normal]

    def close(self) -> None:
        """Close the database; the next search opens it again."""
        with self._lock:
            if self._database is not None and self._owner == os.getpid():
                self._database.close()
                self._database = None

    def _key(self, query: str, k: int) -> _Key:
        text = json.dumps([_FORMAT, self.identity, k, query])
        return hashlib.sha256(text.encode()).digest()

    def _guarded(self, act: Callable[[sqlite3.Connection], Any]) -> Any:
        """Do something with the database; None where it cannot be used."""
        try:
            try:
                return act(self._connection())
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                # SQLite quotes what is torn in its messages, which need not be text.
                if type(error) not in (sqlite3.DatabaseError, UnicodeDecodeError):
                    raise  # locked, full and the like; only torn files and no databases go on
                self._set_aside(error)
                return act(self._connection())
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            if str(error) != self._complaint:
                _log.warning("going on without the cache in %s: %s", self.path, error)
            self._complaint = str(error)
            return None

    def _connection(self) -> sqlite3.Connection:
        if self._database is not None and self._owner != os.getpid():
            # SQLite forbids use and even closing of a connection that came through a fork.
            self._inherited.append(self._database)
            self._database = None
        if self._database is None:
            self._number = max([self._number, *self._numbers()])
            self._database = _open(self._file(self._number), self.max_bytes)
            self._owner = os.getpid()
        return self._database

    def _set_aside(self, error: Exception) -> None:
        """Go on to the next file; nothing is renamed, as other processes may have it open."""
        torn = self._file(self._number)
        _log.warning("%s is set aside, a new cache is begun: %s", torn, error)
        if self._database is not None:
            self._database.close()
        self._database = None
        self._number += 1

    def _file(self, number: int) -> Path:
        return self.path / f"cache-{number}.sqlite"

    def _numbers(self) -> list[int]:
        names = (_FILE.fullmatch(entry.name) for entry in self.path.iterdir())
        return [int(name[1]) for name in names if name]

    def _read(self, database: sqlite3.Connection, keys: dict[str, _Key]) -> _Answers:
        """Read what is known and intact; note its use and drop what is not intact."""
        now = self._clock()
        known, stale, corrupt = {}, [], []
        for query, key in keys.items():
            row = database.execute(
                "SELECT used, checksum, value FROM entries WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                continue
            used, checksum, value = row
            if checksum == _checksum(key, value):
                known[query] = _decode(value)
                stale += [(now, key)] if abs(now - used) > _TOUCH_S else []
            else:
                corrupt.append((key,))
        if stale or corrupt:
            with database:
                database.executemany("UPDATE entries SET used = ? WHERE key = ?", stale)
                database.executemany("DELETE FROM entries WHERE key = ?", corrupt)
        return known

    def _write(self, database: sqlite3.Connection, entries: list[tuple[_Key, bytes]]) -> None:
        now = self._clock()
        with database:
            _make_room(database, self.max_bytes, sum(len(value) for _, value in entries))
            database.executemany(
                "INSERT OR REPLACE INTO entries (key, used, checksum, value) VALUES (?, ?, ?, ?)",
                [(key, now, _checksum(key, value), value) for key, value in entries],
            )


def _open(file: Path, max_bytes: int) -> sqlite3.Connection:
    """Open a database of ours, making it if the file is new.

    Raises:
        sqlite3.DatabaseError: If the file is torn or something else than our cache.
    """
    database = sqlite3.connect(
        file, timeout=_BUSY_S, isolation_level="IMMEDIATE", check_same_thread=False
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last entries
        database.execute("BEGIN IMMEDIATE")
        with database:
            marks = [
                database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "schema_version")
            ]
            if marks == [0, 0, 0]:  # a new file
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {_FORMAT}")
                database.execute(
                    "CREATE TABLE entries (key BLOB NOT NULL UNIQUE, used REAL NOT NULL, "
                    "checksum BLOB NOT NULL, value BLOB NOT NULL)"
                )
            elif marks[:2] != [_APPLICATION, _FORMAT]:
                raise sqlite3.DatabaseError("expected a cache of this version, found another file")
        page = database.execute("PRAGMA page_size").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {max_bytes // page}")
        return database
    except BaseException:
        database.close()
        raise


def _make_room(database: sqlite3.Connection, max_bytes: int, coming: int) -> None:
    """Drop what was not used for longest until new values of so many bytes fit."""
    while True:
        pages, free, page = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        held, room = (pages - free) * page, _KEPT * max_bytes - coming
        count = database.execute("SELECT count(*) FROM entries").fetchone()[0]
        if held + coming <= max_bytes * _FULL or not count:
            return
        surplus = math.ceil(count * min(1.0, 1 - room / held))
        database.execute(
            "DELETE FROM entries WHERE rowid IN "
            "(SELECT rowid FROM entries ORDER BY used, rowid LIMIT ?)",
            (surplus,),
        )


def _normalise(query: str) -> str:
    return " ".join(unicodedata.normalize("NFC", query).split())


def _checksum(key: _Key, value: bytes) -> bytes:
    return hashlib.blake2b(key + value, digest_size=16).digest()


def _encode(passages: Sequence[Passage]) -> bytes:
    fields = [(each.id, each.title, each.text, float(each.score)) for each in passages]
    return json.dumps(fields).encode()


def _decode(value: bytes) -> list[Passage]:
    return [Passage(*fields) for fields in json.loads(value)]
