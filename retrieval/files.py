"""Files that are whole or not there, and folders with one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from retrieval.text import to_unicode

LOCK = ".lock"
"""Name of the file that whoever writes to a folder holds locked."""

_HOLDER = re.compile(r"(?:[^\n]* by process \d+\n)?")


@contextmanager
def sole_writer(folder: str | Path, error: type[Exception], *, what: str) -> Iterator[None]:
    """Hold a folder as its only writer; the operating system lets go of it when a process ends.

    Args:
        folder: The folder; made if missing.
        error: Class of the error to raise.
        what: What is done there, for the message: "a training run", "an index build".

    Raises:
        Exception: As ``error``, if another process, or this one, holds the folder already, or its
            lock is something that we did not write.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder / LOCK, error) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(
                f"{folder}: expected no other writer, found {lock.read(80).strip() or 'one'}; "
                f"wait until it has ended, or choose another folder for {what}"
            ) from None
        if not _HOLDER.fullmatch(lock.read(200)):
            raise error(
                f"{folder / LOCK}: expected the name of who writes there, found a file of others; "
                f"choose another folder for {what}"
            )
        lock.seek(0)
        lock.truncate(0)
        lock.write(f"{what} by process {os.getpid()}\n")
        lock.flush()
        yield


def _lock_file(path: Path, error: type[Exception]) -> IO[str]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as problem:
        if problem.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise error(
            f"{path}: expected a file of ours, found a link or a folder; choose another folder"
        ) from None
    return open(descriptor, "r+", encoding="utf-8", errors="replace")


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Put a content into a file in one step: whatever happens meanwhile, the file is old or new.

    Args:
        path: The file; what was there is replaced.
        content: Bytes, or text for UTF-8; lone surrogates become U+FFFD.

    Raises:
        OSError: If it cannot be written; no draft is left behind then.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    data = content if isinstance(content, bytes) else to_unicode(content).encode("utf-8")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def free_name(path: str | Path) -> Path:
    """Return the path with the first number behind it under which nothing is."""
    path, number = Path(path), 1
    while os.path.lexists(free := path.with_name(f"{path.name}.{number}")):
        number += 1
    return free


def set_aside(path: str | Path) -> Path:
    """Give what has a name that is needed another one; nothing of it is lost.

    Args:
        path: A file, folder or link; links are renamed, not followed.

    Returns:
        The new name; see `free_name`.
    """
    return Path(path).rename(free_name(path))
