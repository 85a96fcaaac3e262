"""The SQLite database of a cache: ours or refused, and bounded with its write-ahead log."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

FORMAT = 1
"""Of the table and of the values in it; another one is another cache."""

_APPLICATION = 0x41543250  # "AT2P": marks our files in SQLite's header
_MAGIC, _HEAD = b"SQLite format 3\0", 100  # Source: SQLite, "Database File Format", section 1.3
_TABLE = (
    "CREATE TABLE entries (key BLOB NOT NULL UNIQUE, used REAL NOT NULL, "
    "checksum BLOB NOT NULL, value BLOB NOT NULL)"
)
_FULL, _KEPT = (
    0.9,
    0.88,
)  # of the bound: where an eviction starts and ends
_BUSY_S = 1.0  # wait for another process's write, then do without the cache
_READERS_MS = 20  # wait for those who read the log that is to be emptied
_LARGEST = 2**24  # bytes that a single entry is read into
_LOG_BYTES = 2**20  # the log is emptied above


def open_database(file: Path, max_bytes: int) -> sqlite3.Connection:
    """Open a database of ours, making it if the file is new.

    Raises:
        sqlite3.DatabaseError: If the file is corrupt or not a cache of ours.
    """
    _require_ours(file)
    database = sqlite3.connect(
        file, timeout=_BUSY_S, isolation_level="IMMEDIATE", check_same_thread=False
    )
    try:
        database.text_factory = bytes  # an entry that is text is no entry; nor need it be UTF-8
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(max_bytes, _LARGEST))
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last entries
        database.execute("BEGIN IMMEDIATE")
        with database:
            marks = [
                database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "schema_version")
            ]
            if marks == [0, 0, 0]:  # a new file
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {FORMAT}")
                database.execute(_TABLE)
            # Triggers and views of others would run with our statements.
            schema = database.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL").fetchall()
            if marks[2] and (marks[:2], schema) != ([_APPLICATION, FORMAT], [(_TABLE.encode(),)]):
                raise sqlite3.DatabaseError("expected a cache of this version, found another file")
        database.execute("PRAGMA journal_mode = WAL")  # after the marks, which the file then has
        page = database.execute("PRAGMA page_size").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {max_bytes // page}")
        return database
    except BaseException:
        database.close()
        raise


def _require_ours(file: Path) -> None:
    """Refuse a file before SQLite opens it, which may write to any database and removes old logs.

    Raises:
        sqlite3.DatabaseError: If the file, or one beside it, is not that of a cache.
    """
    head = b""
    # Looked for first: a process that makes a database makes its parts later.
    parts = any(Path(f"{file}{end}").exists() for end in ("-wal", "-shm", "-journal"))
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise sqlite3.DatabaseError("expected a cache, found a link or a folder")
    if file.exists():
        with file.open("rb") as content:
            head = content.read(_HEAD)
    elif parts:
        raise sqlite3.DatabaseError("expected a new cache, found parts of another database")
    version, application = head[60:64], head[68:72]
    ours = FORMAT.to_bytes(4, "big"), _APPLICATION.to_bytes(4, "big")
    if head and (head[:16], (version, application)) != (_MAGIC, ours):
        raise sqlite3.DatabaseError("expected a cache of this version, found another file")


def make_room(database: sqlite3.Connection, max_bytes: int, coming: int) -> None:
    """Drop what was not used for longest until new values of so many bytes fit."""
    while True:
        pages, free, page = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        held, room = (pages - free) * page, _KEPT * max_bytes - coming
        if held + coming <= max_bytes * _FULL:
            return
        count = database.execute("SELECT count(*) FROM entries").fetchone()[0]
        if not count:
            return
        surplus = math.ceil(count * min(1.0, 1 - room / held))
        database.execute(
            "DELETE FROM entries WHERE rowid IN "
            "(SELECT rowid FROM entries ORDER BY used, rowid LIMIT ?)",
            (surplus,),
        )


def log_has_room(database: sqlite3.Connection, file: Path) -> bool:
    """Empty the write-ahead log if it is large; False if others keep it from being emptied.

    SQLite starts it again only when nobody reads it, which several busy processes put off for ever.
    """
    log = Path(f"{file}-wal")
    if not log.exists() or log.stat().st_size <= _LOG_BYTES:
        return True
    database.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
    busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    database.execute(f"PRAGMA busy_timeout = {round(1000 * _BUSY_S)}")
    return not busy
