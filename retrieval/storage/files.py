"""Files that are whole or not there, and folders with one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from retrieval.text import to_unicode

_log = logging.getLogger(__name__)

LOCK = ".lock"
"""Name of the file that the process which writes to a folder holds locked."""

_HOLDER = re.compile(r"(?:[^\n]* by process \d+\n)?")


class Held:
    """A folder that this process holds as its only writer.

    Args:
        folder: The folder.
        descriptor: It, open.
        error: Class of the error to raise.
    """

    def __init__(self, folder: Path, descriptor: int, error: type[Exception]) -> None:
        self._folder, self._descriptor, self._error = folder, descriptor, error

    def require(self) -> None:
        """Check that the path still leads to the folder, before something is written by its name.

        Raises:
            Exception: As `error`, if it was renamed, removed or replaced.
        """
        if not (
            self._folder.exists()
            and os.path.samestat(os.stat(self._folder), os.fstat(self._descriptor))
        ):
            raise self._error(
                f"{self._folder}: expected the folder that is held since the beginning, found it "
                "renamed or removed; put it back and resume, or start again"
            )


@contextmanager
def sole_writer(folder: str | Path, error: type[Exception], *, what: str) -> Iterator[Held]:
    """Hold a folder as its only writer; the operating system lets go of it when a process ends.

    Args:
        folder: The folder; made if missing.
        error: Class of the error to raise.
        what: What is done there, for the message: "a training run", "an index build".

    Yields:
        What says whether the folder is still in its place.

    Raises:
        Exception: As `error`, if another process, or this one, holds the folder already, or its
            lock is something that we did not write.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder) as descriptor, _lock_file(folder / LOCK, error) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock_folder(descriptor, fcntl.LOCK_EX)  # its lock's file may be removed
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
        yield Held(folder, descriptor, error)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock_folder(descriptor: int, how: int) -> bool:
    """Hold a folder as long as it is open, where its file system can lock one.

    Args:
        descriptor: The folder, open.
        how: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.

    Returns:
        Whether it is held; False on a file system that locks files only, or nothing.

    Raises:
        BlockingIOError: If another process holds it.
    """
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _lock_file(path: Path, error: type[Exception]) -> IO[str]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        require_file(path)
        descriptor = os.open(path, flags, 0o666)
    except OSError as problem:
        if problem.errno not in (errno.ELOOP, errno.EISDIR, errno.EINVAL):
            raise
        raise error(
            f"{path}: expected a file of ours, found a link, a folder or a pipe; choose another "
            "folder"
        ) from None
    return open(descriptor, "r+", encoding="utf-8", errors="replace")


def require_file(path: str | Path) -> None:
    """Refuse to read a pipe, which would be waited for, or a device, which has no end.

    Args:
        path: What is to be read; need not exist.

    Raises:
        OSError: If it is such a thing.
    """
    if _is_stream(path):
        raise OSError(errno.EINVAL, "expected a file, found a pipe or a device", str(path))


def _is_stream(path: str | Path) -> bool:
    """Whether something is neither file nor folder."""
    path = Path(path)
    return path.exists() and not (path.is_file() or path.is_dir())


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Give a file another content in one step: whatever happens meanwhile, it is old or new.

    Args:
        path: The file; what was there is replaced.

    Yields:
        Where the new content goes.

    Raises:
        OSError: If it cannot be written; no draft is left behind then.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.unlink(missing_ok=True)  # of a dead process; were it a link, it would be followed
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Put a content into a file in one step; see `whole_file`.

    Args:
        path: The file; what was there is replaced.
        content: Bytes, or text for UTF-8; lone surrogates become U+FFFD.

    Raises:
        OSError: If it cannot be written; no draft is left behind then.
    """
    data = content if isinstance(content, bytes) else to_unicode(content).encode("utf-8")
    with whole_file(path) as file:
        file.write(data)


def flush(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_own(path: str | Path, content: str, mark: str) -> None:
    """Write a file where an earlier one of ours may be; what else is there gets another name.

    Args:
        path: The file. A link is followed, a device or a pipe such as `/dev/stdout` written to.
        content: What is written.
        mark: A text that all files of ours with such a content hold.

    Raises:
        OSError: If it cannot be written; a pipe that nobody reads is not waited for.
    """
    if _is_stream(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        with open(descriptor, "wb") as stream:
            stream.write(to_unicode(content).encode("utf-8"))
        return
    path = Path(path).resolve()
    if path.exists() and not _is_own(path, mark.encode("utf-8")):
        _log.warning("%s: expected a file of ours, set aside as %s", path, set_aside(path))
    write_whole(path, content)


def _is_own(path: Path, mark: bytes) -> bool:
    """Whether a file holds a mark, or nothing that could be lost."""
    return path.is_file() and (not path.stat().st_size or mark in path.read_bytes())


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
