"""Folders whose content is replaced in one step: every build goes into a sub-folder of its own.

Nothing is removed or overwritten that a build of ours has not written: a sub-folder is ours if it
holds our mark with its own name, a file in it if the manifest lists it. A folder with anything else
is refused before a byte is written.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retrieval.errors import IndexFormatError
from retrieval.storage.files import LOCK, flush, lock_folder, sole_writer, write_whole
from retrieval.storage.manifest import DATA, MANIFEST, Manifest, entry_of, read_manifest

_log = logging.getLogger(__name__)

_MARK = ".at2po"


@contextmanager
def building(folder: str | Path, kind: str) -> Iterator[tuple[Path, Manifest]]:
    """Build the content of a folder; it takes the place of the old content only when complete.

    Files are written to a new sub-folder and flushed to the disk before the manifest, which names
    the sub-folder, is replaced. So a full disk, an error or a kill leaves the old content in use.
    The old sub-folder is removed then, or by the next build if a process still has it open.

    Args:
        folder: Where it is built; made if missing.
        kind: What is built.

    Yields:
        The sub-folder to write to, and the manifest to fill in. Its files are added at the end;
        those that it has by then are not read again.

    Raises:
        IndexFormatError: If the folder holds something else, or is being built by another process.
    """
    folder = Path(folder)
    _survey(folder)
    with sole_writer(folder, IndexFormatError, what="an index build") as held:
        old, leftovers = _survey(folder)
        for path in leftovers:
            _remove(path)
        manifest = Manifest(kind=kind, data=f"data-{secrets.token_hex(4)}")
        data = folder / manifest.data
        data.mkdir()
        try:
            _mark(data)
            yield data, manifest
            manifest.files = {
                name: manifest.files.get(name) or entry_of(data / name)
                for name in sorted(_files_in(data))
                if name != _MARK
            }
            held.require()
            _publish(folder, data, manifest)
        except BaseException:
            shutil.rmtree(data, ignore_errors=True)
            raise
        if old is not None and _holds_only(folder / old.data, old):
            _remove(folder / old.data)


def _survey(folder: Path) -> tuple[Manifest | None, list[Path]]:
    """Find the manifest in use and the sub-folders that earlier builds have left.

    Raises:
        IndexFormatError: If there is anything that no build of ours has made.
    """
    if not folder.exists():
        return None, []
    if not folder.is_dir():
        raise IndexFormatError(
            f"{folder}: expected a folder, found a file; choose another place for the index"
        )
    paths = sorted(path for path in folder.iterdir() if path.name != LOCK)
    old = _in_use(folder) if folder / MANIFEST in paths else None
    leftovers, foreign = [], []
    for path in paths:
        if path.name == MANIFEST:
            continue
        if old is not None and path.name == old.data:
            foreign += [] if _holds_only(path, old) else [f"files of others in {path.name}"]
        elif _made_here(path):
            leftovers.append(path)
        else:
            foreign.append(path.name)
    if foreign:
        raise IndexFormatError(
            f"{folder}: expected an empty folder or one that was built before, found other files "
            f"({', '.join(foreign)[:300]}); choose another folder, or move them away"
        )
    return old, leftovers


def _in_use(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except IndexFormatError as problem:
        raise IndexFormatError(
            f"{folder}: expected an empty folder or one that was built before, found other files: "
            f"{problem}; choose another folder, or remove the {MANIFEST} if nothing needs it"
        ) from None


def _made_here(path: Path) -> bool:
    """Whether a build of ours made a sub-folder and everything in it."""
    if path.is_symlink() or not path.is_dir() or not DATA.fullmatch(path.name):
        return False
    if not any(path.iterdir()):
        return True  # made, and killed before it was marked; nothing is lost with it
    mark = path / _MARK
    if mark.is_symlink() or not mark.is_file() or mark.read_bytes() not in (b"", _name(path)):
        return False
    if not (path / MANIFEST).exists():
        return True  # never in use, or half removed
    with suppress(IndexFormatError):
        return _holds_only(path, read_manifest(path))
    return False


def _holds_only(data: Path, manifest: Manifest) -> bool:
    """Whether a sub-folder has no other files than its manifest lists."""
    if data.is_symlink() or not data.is_dir():
        return False
    ours = {_MARK, MANIFEST}
    return all(
        name in manifest.files or name in ours or name.rpartition("/")[2] == LOCK
        for name in _files_in(data)
    )


def _files_in(data: Path) -> Iterator[str]:
    """Paths in a sub-folder of everything in it that is no folder; links are not followed."""
    for folder, folders, files in os.walk(data):
        for name in files + [each for each in folders if (Path(folder) / each).is_symlink()]:
            yield str((Path(folder) / name).relative_to(data))


def _mark(data: Path) -> None:
    (data / _MARK).write_bytes(_name(data))


def _name(data: Path) -> bytes:
    return f"made by at2po index build as {data.name}\n".encode()


def _publish(folder: Path, data: Path, manifest: Manifest) -> None:
    for path in [*data.rglob("*"), data]:
        flush(path)
    write_whole(data / f"{MANIFEST}.new", manifest.text())
    os.replace(data / f"{MANIFEST}.new", folder / MANIFEST)
    flush(folder)
    # Tells a reader of this build what it is, whatever is built later.
    with suppress(OSError):
        os.link(folder / MANIFEST, data / MANIFEST)


def _remove(data: Path) -> None:
    """Remove a sub-folder that is ours, unless a reader has it open."""
    descriptor = os.open(data, os.O_RDONLY)
    try:
        # Where folders cannot be locked, readers have their files open.
        if lock_folder(descriptor, fcntl.LOCK_EX):
            _mark(data)  # if this process is killed now, the rest is still known as ours
        for path in data.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _MARK:
                path.unlink()
        shutil.rmtree(data)
    except BlockingIOError:
        _log.info("%s is still being read; the next build removes it", data)
    except OSError as problem:
        _log.warning("%s could not be removed: %s", data, problem)
    finally:
        os.close(descriptor)
