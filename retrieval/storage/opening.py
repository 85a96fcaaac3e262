"""Opening built folders: the files of one build, held open, however often it is built again."""

from __future__ import annotations

import fcntl
import os
import stat
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFormatError
from retrieval.storage.files import lock_folder
from retrieval.storage.manifest import REBUILD, Manifest, entry_of, read_manifest, sample_of

_CHECK_S = 1.0
_NOT_MAPPED = (".bin", ".json")  # read once, or as passages are, from their descriptors


class Built:
    """The files of one build, open as long as this object lives.

    Sizes and a sample of blocks of every file are compared with the manifest, which takes
    milliseconds at any size. A shared lock on the sub-folder keeps a later build from removing it.

    Args:
        folder: The folder that was built.
        manifest: Its manifest.

    Attributes:
        folder: The folder.
        manifest: The manifest.
        path: The sub-folder with the files.

    Raises:
        IndexFormatError: If a file is missing or corrupt.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest, self.path = folder, manifest, folder / manifest.data
        self._absolute = folder.absolute()  # another process may work in another folder
        descriptors: list[int] = []
        weakref.finalize(self, _close, descriptors)
        self._files: dict[str, tuple[int, tuple[int, int]]] = {}
        self._checked_at = time.monotonic()
        try:
            descriptors.append(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as problem:
            raise IndexFormatError(f"{self.path}: expected a folder, found {problem}") from None
        try:
            lock_folder(descriptors[0], fcntl.LOCK_SH)
        except BlockingIOError:
            raise IndexFormatError(f"{self.path}: found it being removed; {REBUILD}") from None
        for name in manifest.files:
            descriptor = _opened(self.path / name)
            if descriptor is not None:
                descriptors.append(descriptor)
            self._files[name] = self._checked(name, descriptor)
        self._mapped = [
            (descriptor, state[0])
            for name, (descriptor, state) in self._files.items()
            if not name.endswith(_NOT_MAPPED)
        ]

    def check(self) -> None:
        """Check that no file was changed in place since it was opened.

        Reading a mapped file that was cut off would end the process: sizes are compared every time,
        which takes microseconds, and a sample of the bytes, if they were written to, every second.

        Raises:
            IndexFormatError: If one was.
        """
        now = time.monotonic()
        if now - self._checked_at < _CHECK_S:
            for descriptor, size in self._mapped:
                if os.lseek(descriptor, 0, os.SEEK_END) != size:
                    break
            else:
                return
        for name, (descriptor, known) in self._files.items():
            state = os.fstat(descriptor)
            if (state.st_size, state.st_mtime_ns) != known:
                self._files[name] = self._checked(name, descriptor)
        self._checked_at = now

    def verify(self) -> None:
        """Compare every byte with its hash.

        Raises:
            IndexFormatError: If a file is altered.
        """
        for name, entry in self.manifest.files.items():
            if entry_of(self.path / name)["sha256"] != entry["sha256"]:
                raise self._altered(name)

    def descriptor(self, name: str) -> int:
        """Return the descriptor of a file, which is open for reading."""
        return self._files[name][0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as names: another process finds these files, or equal ones; see `reopen`."""
        return reopen, (self._absolute, self.manifest.data, self.manifest.hash)

    def _checked(self, name: str, descriptor: int | None) -> tuple[int, tuple[int, int]]:
        entry = self.manifest.files[name]
        state = None if descriptor is None else os.fstat(descriptor)
        if descriptor is None or state is None or state.st_size != entry["bytes"]:
            found = "none" if state is None else f"{state.st_size}"
            raise IndexFormatError(
                f"{self.path / name}: expected {entry['bytes']} bytes, found {found}; {REBUILD}"
            )
        if sample_of(descriptor) != entry["sample"]:
            raise self._altered(name)
        return descriptor, (state.st_size, state.st_mtime_ns)

    def _altered(self, name: str) -> IndexFormatError:
        return IndexFormatError(
            f"{self.path / name}: expected the bytes that were built, found others; {REBUILD}"
        )


def open_built(folder: str | Path | Built, kind: str | None = None) -> Built:
    """Open what a folder holds: the old build or the new one while it is built again.

    Args:
        folder: A folder that was built; or what it holds, open already.
        kind: What it must be; None takes any.

    Returns:
        Its files.

    Raises:
        IndexFormatError: If it is something else, or a file is missing or corrupt.
    """
    if isinstance(folder, Built):
        return folder
    folder = Path(folder)
    while True:
        manifest = read_manifest(folder, kind)
        try:
            return Built(folder, manifest)
        except IndexFormatError:
            if read_manifest(folder, kind).data == manifest.data:
                raise  # else a new build has taken its place meanwhile


def reopen(folder: Path, data: str, index_hash: str) -> Built:
    """Open the files of a build that was open in another process.

    Args:
        folder: The folder that was built.
        data: Name of the build's sub-folder.
        index_hash: Hash of its manifest.

    Returns:
        These files, or those of a later build that answers alike.

    Raises:
        IndexFormatError: If both are gone or damaged.
    """
    with suppress(IndexFormatError):
        return Built(folder, read_manifest(folder / data))
    built = open_built(folder)
    if built.manifest.hash != index_hash:
        raise IndexFormatError(
            f"{folder}: expected the index {index_hash[:12]} that was open before, found "
            f"{built.manifest.hash[:12]}; it was built again meanwhile: open it by its name"
        )
    return built


def _opened(path: Path) -> int | None:
    """Open a regular file; None if there is none. A pipe does not make it wait."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise IndexFormatError(f"{path}: expected to read it, found {problem}") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
