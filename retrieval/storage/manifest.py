"""What a built folder holds, as a sealed file of its own; what is altered in it is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from retrieval.errors import IndexFormatError
from retrieval.storage.files import require_file

MANIFEST = "manifest.json"
PASSAGES = "passages"
"""Sub-folder of an index with its passages; also the kind of a folder that holds nothing else."""
DATA = re.compile("data-[0-9a-f]{8}")
"""Names of the sub-folders with the files of a build."""
REBUILD = "build it again, or fetch it again"

_Object = TypeVar("_Object")

_FORMAT = 2
_BLOCK = 4096
_BLOCKS = 64
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(slots=True, kw_only=True)
class Manifest:
    """What a built folder holds.

    Attributes:
        kind: What it is: `passages`, `bm25`, `dense` or `lucene`.
        parameters: Whatever decides its content, beside the corpus; JSON-able.
        corpus: Hash of the corpus.
        documents: Number of passages.
        facts: What was measured while it was built; JSON-able.
        data: Name of the sub-folder with the files.
        files: Size in bytes, hash, and hash of a sample of blocks, by path in the sub-folder.
        format: 2.
    """

    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)
    corpus: str = ""
    documents: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = _FORMAT

    @property
    def hash(self) -> str:
        """Hash of kind, parameters, corpus and files: equal for folders that answer alike."""
        files = {
            name: entry["sha256"]
            for name, entry in self.files.items()
            if not name.startswith(f"{PASSAGES}/")
        }
        return _digest([self.kind, self.parameters, self.corpus, self.documents, files])

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    def text(self) -> str:
        """Return the content of its file, sealed by a hash over all fields."""
        content = asdict(self)
        return json.dumps({**content, "seal": _digest(content)}, indent=2) + "\n"


def read_manifest(folder: str | Path, kind: str | None = None) -> Manifest:
    """Read the manifest of a built folder; the files that it names are not looked at.

    Args:
        folder: A folder that was built.
        kind: What it must be; None takes any.

    Returns:
        Its manifest.

    Raises:
        IndexFormatError: If there is none, it is corrupt, altered or foreign, or of another kind.
    """
    path = Path(folder) / MANIFEST
    try:
        require_file(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = _manifest(content)
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFormatError(
            f"{folder}: expected a folder with a {MANIFEST}, found none; "
            "build it with `at2po index build`, or check the path"
        ) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise IndexFormatError(
            f"{path}: expected a manifest of ours, found a file that is corrupt or foreign "
            f"({problem}); {REBUILD}"
        ) from None
    if kind is not None and manifest.kind != kind:
        raise IndexFormatError(
            f"{folder}: expected a folder of kind {kind!r}, found {manifest.kind!r}; check the path"
        )
    return manifest


def parameters_of(
    manifest: Manifest, folder: str | Path, build: Callable[[dict[str, Any]], _Object]
) -> _Object:
    """Build an object from the parameters, which may be those of another version.

    Args:
        manifest: The manifest.
        folder: Its folder, for the error message.
        build: Makes the object, and checks what it is made from.

    Returns:
        The object.

    Raises:
        IndexFormatError: If the parameters do not make one.
    """
    try:
        return build(manifest.parameters)
    except (TypeError, ValueError, LookupError, AttributeError) as problem:
        raise IndexFormatError(
            f"{folder}: expected the parameters of an index of kind {manifest.kind}, found "
            f"{str(manifest.parameters)[:300]} ({problem}); {REBUILD}"
        ) from None


def entry_of(path: Path) -> dict[str, Any]:
    """Describe a file for `Manifest.files`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        return {"bytes": size, "sha256": digest, "sample": sample_of(file.fileno())}


def sample_of(descriptor: int) -> str:
    """Hash blocks spread evenly over an open file, its first and last bytes among them."""
    size, digest = os.fstat(descriptor).st_size, hashlib.sha256()
    for block in range(_BLOCKS):
        start = max(0, size - _BLOCK) * block // (_BLOCKS - 1)
        digest.update(os.pread(descriptor, _BLOCK, start))
        if size <= _BLOCK:
            break
    return digest.hexdigest()


def _manifest(content: Any) -> Manifest:
    """Check every field.

    Raises:
        ValueError: If one is missing, of another type, or not what was sealed.
    """
    if not isinstance(content, dict):
        raise ValueError(f"a JSON {type(content).__name__}")
    found = content.get("format")
    if found != _FORMAT or isinstance(found, float):
        raise ValueError(f"expected format {_FORMAT}, found {found!r}"[:200])
    seal = content.pop("seal", None)
    wrong = set(content) ^ {each.name for each in fields(Manifest)}
    if wrong:
        raise ValueError(f"fields missing or unknown: {sorted(wrong)}"[:200])
    manifest = Manifest(**content)
    _check_types(manifest)
    if seal != _digest(content):
        raise ValueError("fields that were altered since they were sealed")
    return manifest


def _check_types(manifest: Manifest) -> None:
    for name in ("kind", "corpus", "data"):
        _require(isinstance(getattr(manifest, name), str), name)
    for name in ("parameters", "facts", "files"):
        _require(isinstance(getattr(manifest, name), dict), name)
    _require(_is_count(manifest.documents), "documents")
    _require(_HASH.fullmatch(manifest.corpus) is not None, "corpus")
    _require(DATA.fullmatch(manifest.data) is not None, "data")
    for name, entry in manifest.files.items():
        path = PurePosixPath(name)
        _require(bool(path.parts) and not path.is_absolute() and ".." not in path.parts, "files")
        _require(isinstance(entry, dict) and set(entry) == {"bytes", "sha256", "sample"}, name)
        _require(_is_count(entry["bytes"]), f"{name}: bytes")
        for field_name in ("sha256", "sample"):
            value = entry[field_name]
            _require(isinstance(value, str) and _HASH.fullmatch(value) is not None, name)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"a wrong value of {what!r}"[:200])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
