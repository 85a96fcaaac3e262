"""A persistent cache in front of any retriever, shared by all processes of a machine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from retrieval.cache_database import FORMAT, log_has_room, make_room, open_database
from retrieval.errors import SearchArgumentError
from retrieval.protocol import Passage, Retriever
from retrieval.text import to_query

_log = logging.getLogger(__name__)

_FILE = "cache-0.sqlite"
_TOUCH_S = 60.0  # how exactly the last use is known; finer would turn every read into a write
_SMALLEST = 2**16

_Result = TypeVar("_Result")
_Key = bytes
_Answers = dict[str, list[Passage]]


class CachedRetriever:
    """Answers known queries from a SQLite database and asks the retriever for the others.

    An entry is found by the SHA-256 of identity, `k` and normalised query, and read only if its
    checksum fits. The retriever is asked for the normalised query too (Unicode NFC, white space
    collapsed), so that an answer never depends on what is in the cache.

    The database (write-ahead log) may be used by many processes at a time. A file that is corrupt
    or not ours is left as it is, and the retriever asked for everything until it is removed: a
    corrupt, full or locked file costs speed, never an answer.

    Args:
        retriever: Asked for what is not in the cache.
        path: Folder of the cache; made if missing.
        identity: Hash of the index and parameters of the retriever: whatever decides its answers.
        max_bytes: Size that the database is kept under by dropping what was not used for longest,
            >= 65536. Its write-ahead log comes on top: above 1 MiB it is emptied before anything
            is written to it, so it exceeds that by a single write.
        clock: Seconds since the epoch.

    Attributes:
        hits: Queries answered from the cache by this object.
        misses: Queries passed on to the retriever.

    Raises:
        SearchArgumentError: If an argument is out of range or `path` is no folder.
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
        self._file, self._lock = self.path / _FILE, threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._owner = 0  # process that opened the database
        self._complaint = ""
        self._inherited: list[sqlite3.Connection] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments: the copy opens the database for itself."""
        arguments = (self.retriever, self.path, self.identity, self.max_bytes)
        return type(self), arguments

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank passages for each query; see `Retriever.search`."""
        normal = [to_query(query) for query in queries]
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
            self._disconnect()

    def _key(self, query: str, k: int) -> _Key:
        text = json.dumps([FORMAT, self.identity, k, query])
        return hashlib.sha256(text.encode()).digest()

    def _guarded(self, act: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """Do something with the database; None where it cannot be used."""
        try:
            return act(self._connection())
        except Exception as error:  # a file may hold anything, but nothing that is worth an answer
            if str(error) != self._complaint:
                fix = "if it is corrupt or no cache, remove it, or choose another folder"
                _log.warning("continuing without the cache %s: %s; %s", self._file, error, fix)
            self._complaint = str(error)
            self._disconnect()  # so that a file in its place is noticed
            return None

    def _connection(self) -> sqlite3.Connection:
        if self._database is not None and self._owner != os.getpid():
            # SQLite forbids use and even closing of a connection that came through a fork.
            self._inherited.append(self._database)
            self._database = None
        if self._database is None:
            self._database = open_database(self._file, self.max_bytes)
            self._owner = os.getpid()
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None and self._owner == os.getpid():
            self._database.close()
            self._database = None

    def _read(self, database: sqlite3.Connection, keys: dict[str, _Key]) -> _Answers:
        """Read what is known and intact; note its use and drop what is not intact."""
        now = self._clock()
        known: _Answers = {}
        stale: list[tuple[float, _Key]] = []
        corrupt: list[tuple[_Key]] = []
        for query, key in keys.items():
            row = database.execute(
                "SELECT used, checksum, value FROM entries WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                continue
            used, checksum, value = row
            if checksum != _checksum(key, value) or not isinstance(used, (int, float)):
                corrupt.append((key,))
                continue
            known[query] = _decode(value)
            stale += [] if abs(now - used) <= _TOUCH_S else [(now, key)]
        if stale or corrupt:
            with database:
                database.executemany("UPDATE entries SET used = ? WHERE key = ?", stale)
                database.executemany("DELETE FROM entries WHERE key = ?", corrupt)
        return known

    def _write(self, database: sqlite3.Connection, entries: list[tuple[_Key, bytes]]) -> None:
        now = self._clock()
        if not log_has_room(database, self._file):
            return
        with database:
            make_room(database, self.max_bytes, sum(len(value) for _, value in entries))
            database.executemany(
                "INSERT OR REPLACE INTO entries (key, used, checksum, value) VALUES (?, ?, ?, ?)",
                [(key, now, _checksum(key, value), value) for key, value in entries],
            )


def _checksum(key: _Key, value: Any) -> bytes:
    return hashlib.blake2b(key + value, digest_size=16).digest() if type(value) is bytes else b""


def _encode(passages: Sequence[Passage]) -> bytes:
    fields = [(each.id, each.title, each.text, float(each.score)) for each in passages]
    return json.dumps(fields).encode()


def _decode(value: bytes) -> list[Passage]:
    return [Passage(*row) for row in json.loads(value)]
