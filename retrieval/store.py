"""Passages on disk: built once, mapped into memory, read one at a time."""

from __future__ import annotations

import hashlib
import mmap
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CorpusFormatError, IndexFormatError, UnknownNameError
from retrieval.manifest import Manifest, building, read_manifest
from retrieval.passages import CorpusHash, Passage

# A record is the number of bytes of id and title, then id, title and text.
_SIZES = struct.Struct("<II")
_TEXT, _STARTS, _ID_HASHES, _ID_POSITIONS = "text.bin", "starts.npy", "ids.npy", "positions.npy"


class StoredPassages(Sequence[Passage]):
    """Passages in a folder, read when they are asked for; the corpus is never in memory.

    Args:
        folder: A folder that `store_passages` built.

    Attributes:
        folder: The folder.
        hash: Hash of all ids, titles and texts in their order.

    Raises:
        IndexFormatError: If the folder is something else, or its files are torn or altered.
    """

    def __init__(self, folder: str | Path) -> None:
        """Map the files."""
        self.folder = Path(folder)
        manifest = read_manifest(folder, "passages")
        data = self.folder / manifest.data
        self.hash = manifest.corpus
        self._starts = _mapped(data / _STARTS)
        self._id_hashes = _mapped(data / _ID_HASHES)
        self._id_positions = _mapped(data / _ID_POSITIONS)
        self._text = _mapped_bytes(data / _TEXT)

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[Passage]:
        """Iterate in corpus order."""
        return (self[position] for position in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Passage, ...]: ...
    def __getitem__(self, index: int | slice) -> Passage | tuple[Passage, ...]:
        """Return the passage at a position, or a tuple of them for a slice."""
        if isinstance(index, slice):
            return tuple(self[position] for position in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected a position below {len(self)}, found {index}")
        start, stop = self._starts[index % len(self) : index % len(self) + 2].tolist()
        try:
            return _decode(self._text[start:stop])
        except (struct.error, ValueError) as problem:
            raise IndexFormatError(
                f"{self.folder}: expected passage {index} as it was stored, found {problem}; "
                "build the store again"
            ) from None

    def find(self, passage_id: str) -> Passage:
        """Return the passage of an id.

        Args:
            passage_id: Its id.

        Returns:
            The passage.

        Raises:
            UnknownNameError: If there is none.
        """
        key = _hash_of(passage_id)
        for i in range(int(np.searchsorted(self._id_hashes, key)), len(self)):
            if self._id_hashes[i] != key:
                break
            passage = self[int(self._id_positions[i])]
            if passage.id == passage_id:
                return passage
        raise UnknownNameError(f"expected the id of a passage, found {passage_id!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the folder's name: another process maps it anew."""
        return type(self), (self.folder,)


def store_passages(passages: Iterable[Passage], folder: str | Path) -> StoredPassages:
    """Write passages to a folder, of which only their places are held in memory meanwhile.

    Args:
        passages: The passages, read once, in corpus order.
        folder: Where they go; an earlier store there is replaced once the new one is complete.

    Returns:
        The stored passages.

    Raises:
        CorpusFormatError: If two passages share an id.
        IndexFormatError: If the folder holds something else.
    """
    with building(folder, "passages") as (data, manifest):
        _write(passages, data, manifest)
    return StoredPassages(folder)


def _write(passages: Iterable[Passage], data: Path, manifest: Manifest) -> None:
    starts, id_hashes, digest = array("q", [0]), array("Q"), CorpusHash()
    with (data / _TEXT).open("wb", buffering=1 << 20) as file:
        for passage in passages:
            file.write(_encode(passage))
            starts.append(file.tell())
            id_hashes.append(_hash_of(passage.id))
            digest.add(passage)
    hashes = np.frombuffer(id_hashes, np.uint64)
    positions = np.argsort(hashes, kind="stable")
    hashes = hashes[positions]
    text = _mapped_bytes(data / _TEXT)
    for i in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
        pair = positions[i : i + 2].tolist()
        first, second = (_decode(text[starts[p] : starts[p + 1]]).id for p in pair)
        if first == second:
            raise CorpusFormatError(
                f"passage {pair[1]}: expected a new id, found {first!r} of passage {pair[0]}"
            )
    np.save(data / _STARTS, np.frombuffer(starts, np.int64))
    np.save(data / _ID_HASHES, hashes)
    np.save(data / _ID_POSITIONS, positions)
    manifest.corpus, manifest.documents = digest.hexdigest(), len(hashes)


def _encode(passage: Passage) -> bytes:
    parts = [
        text.encode("utf-8", "surrogatepass") for text in (passage.id, passage.title, passage.text)
    ]
    return _SIZES.pack(len(parts[0]), len(parts[1])) + b"".join(parts)


def _decode(record: bytes) -> Passage:
    id_bytes, title_bytes = _SIZES.unpack_from(record)
    title = _SIZES.size + id_bytes
    text = title + title_bytes
    if text > len(record):
        raise ValueError(f"a record of {len(record)} bytes with its text at {text}")
    parts = record[_SIZES.size : title], record[title:text], record[text:]
    passage_id, title_text, body = (part.decode("utf-8", "surrogatepass") for part in parts)
    return Passage(passage_id, title_text, body)


def _hash_of(passage_id: str) -> int:
    data = passage_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _mapped(path: Path) -> NDArray[Any]:
    # A plain array over the map: single numbers are read from it much faster than from a memmap.
    return np.asarray(np.load(path, mmap_mode="r"))


def _mapped_bytes(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        empty = path.stat().st_size == 0  # which cannot be mapped
        return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
