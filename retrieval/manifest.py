"""Folders of built files: replaced in one step, described by a manifest, refused when altered."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFormatError

MANIFEST = "manifest.json"
_FORMAT = 1
_LOCK = ".lock"
_BLOCK = 4096
_BLOCKS = 64
_REBUILD = "build it again, or fetch it again"


@dataclass(slots=True, kw_only=True)
class Manifest:
    """What a built folder holds.

    Attributes:
        kind: What it is: ``passages``, ``bm25``, ``dense`` or ``lucene``.
        parameters: Whatever decides its content, beside the corpus; JSON-able.
        corpus: Hash of the corpus.
        documents: Number of passages.
        facts: What was measured while it was built; JSON-able.
        data: Name of the sub-folder with the files.
        files: Size in bytes, hash, and hash of a sample of blocks, by path in the sub-folder.
    """

    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)
    corpus: str = ""
    documents: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Hash of kind, parameters, corpus and files: equal for folders that answer alike."""
        files = {name: entry["sha256"] for name, entry in self.files.items()}
        content = [self.kind, self.parameters, self.corpus, self.documents, files]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())


@contextmanager
def building(folder: str | Path, kind: str) -> Iterator[tuple[Path, Manifest]]:
    """Build the content of a folder; it takes the place of the old content only when complete.

    Files are written to a new sub-folder and flushed to the disk before the manifest, which names
    the sub-folder, is replaced. So a full disk, an error or a kill leaves the old content in use.

    Args:
        folder: Where it is built; made if missing.
        kind: What is built.

    Yields:
        The sub-folder to write to, and the manifest to fill in.

    Raises:
        IndexFormatError: If the folder holds something else, or is being built by another process.
    """
    folder = Path(folder)
    if folder.exists() and not _ours(folder):
        raise IndexFormatError(
            f"{folder}: expected an empty folder or one that was built before, found other files; "
            "choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IndexFormatError(
                f"{folder}: expected to be the only one to build it, found another process that "
                "does; wait for it"
            ) from None
        _drop_others(folder, _present(folder))
        manifest = Manifest(kind=kind, data=f"data-{secrets.token_hex(4)}")
        data = folder / manifest.data
        data.mkdir()
        try:
            yield data, manifest
            written = sorted(path for path in data.rglob("*") if path.is_file())
            manifest.files = {
                str(path.relative_to(data)): _entry(path) for path in written if path.name != _LOCK
            }
            _commit(folder, manifest)
        except BaseException:
            shutil.rmtree(data, ignore_errors=True)
            raise
        _drop_others(folder, manifest.data)


def read_manifest(folder: str | Path, kind: str | None = None) -> Manifest:
    """Read what a folder holds and check that its files are whole.

    Sizes and a sample of blocks of every file are compared, which takes milliseconds at any size;
    `verify` compares all bytes.

    Args:
        folder: A folder that was built.
        kind: What it must be; None takes any.

    Returns:
        Its manifest.

    Raises:
        IndexFormatError: If it is something else, or a file is missing, torn or altered.
    """
    manifest = _read(Path(folder), kind)
    for name, entry in manifest.files.items():
        path = Path(folder) / manifest.data / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "none" if size is None else f"{size}"
            raise IndexFormatError(
                f"{path}: expected {entry['bytes']} bytes, found {found}; {_REBUILD}"
            )
        if _sample(path) != entry["sample"]:
            raise IndexFormatError(
                f"{path}: expected the bytes that were built, found others; {_REBUILD}"
            )
    return manifest


def verify(folder: str | Path) -> Manifest:
    """Check every byte of a built folder against its manifest.

    Args:
        folder: A folder that was built.

    Returns:
        Its manifest.

    Raises:
        IndexFormatError: If a file is missing, torn or altered.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = Path(folder) / manifest.data / name
        if _sha256(path) != entry["sha256"]:
            raise IndexFormatError(
                f"{path}: expected the bytes that were built, found others; {_REBUILD}"
            )
    return manifest


def _read(folder: Path, kind: str | None) -> Manifest:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found_format = content.pop("format")
        if found_format != _FORMAT:
            raise IndexFormatError(
                f"{path}: expected format {_FORMAT}, found {found_format}; {_REBUILD}"
            )
        manifest = Manifest(**content)
    except FileNotFoundError:
        raise IndexFormatError(
            f"{folder}: expected a folder with a {MANIFEST}, found none; "
            "build it with `at2po index build`, or check the path"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        if isinstance(problem, IndexFormatError):
            raise
        raise IndexFormatError(
            f"{path}: expected a manifest, found a file that is torn or foreign ({problem}); "
            f"{_REBUILD}"
        ) from None
    if kind is not None and manifest.kind != kind:
        raise IndexFormatError(
            f"{folder}: expected a folder of kind {kind!r}, found {manifest.kind!r}; check the path"
        )
    return manifest


def _ours(folder: Path) -> bool:
    return all(
        path.name in (MANIFEST, f"{MANIFEST}.new", _LOCK) or path.name.startswith("data-")
        for path in folder.iterdir()
    )


def _present(folder: Path) -> str:
    with suppress(IndexFormatError):
        return _read(folder, None).data
    return ""


def _drop_others(folder: Path, keep: str) -> None:
    """Remove what killed or superseded builds have left."""
    for path in folder.glob("data-*"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def _commit(folder: Path, manifest: Manifest) -> None:
    for path in [*(folder / manifest.data).rglob("*"), folder / manifest.data]:
        _flush(path)
    new = folder / f"{MANIFEST}.new"
    new.write_text(
        json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=2) + "\n", encoding="utf-8"
    )
    _flush(new)
    new.replace(folder / MANIFEST)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path), "sample": _sample(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample(path: Path) -> str:
    """Hash of blocks spread evenly over a file, its first and last bytes among them."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for block in range(_BLOCKS):
            file.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
            if size <= _BLOCK:
                break
    return digest.hexdigest()
