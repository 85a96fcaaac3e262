"""Passages on disk: built once, left there, read one at a time."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from retrieval.corpus.passages import CorpusHash
from retrieval.errors import CorpusFormatError, IndexFormatError, UnknownNameError
from retrieval.protocol import Passage
from retrieval.storage.generations import building
from retrieval.storage.manifest import PASSAGES, REBUILD, Manifest, entry_of
from retrieval.storage.opening import Built, open_built

# A record is the number of bytes of id and title, then id, title and text.
_SIZES, _PLACE = struct.Struct("<II"), struct.Struct("<qq")
_TEXT, _STARTS, _ID_HASHES, _ID_POSITIONS = "text.bin", "starts.npy", "ids.npy", "positions.npy"
_FILES = (_TEXT, _STARTS, _ID_HASHES, _ID_POSITIONS)


class StoredPassages(Sequence[Passage]):
    """Passages in a folder, read when they are asked for; the corpus is never in memory.

    Args:
        folder: A folder that `store_passages` or `build_index` built, or one that is open already.

    Attributes:
        folder: The folder.
        hash: Hash of all ids, titles and texts in their order.

    Raises:
        IndexFormatError: If the folder is something else, or its files are corrupt.
    """

    def __init__(self, folder: str | Path | Built) -> None:
        built = open_built(folder)
        self.folder, self.hash, self._built = built.folder, built.manifest.corpus, built
        self._inside = inside = "" if built.manifest.kind == PASSAGES else f"{PASSAGES}/"
        if not {inside + name for name in _FILES} <= built.manifest.files.keys():
            raise IndexFormatError(
                f"{self.folder}: expected passages, found an index without; build it again"
            )
        try:
            starts, self._id_hashes, self._id_positions = (
                np.load(built.path / inside / name, mmap_mode="r") for name in _FILES[1:]
            )
        except (OSError, ValueError, EOFError) as problem:
            raise IndexFormatError(f"{built.path / inside}: {problem}; {REBUILD}") from None
        self._length, self._starts_at = len(starts) - 1, int(starts.offset)
        # Read, not mapped: a file that is cut off meanwhile would end the process.
        self._starts = built.descriptor(inside + _STARTS)
        self._text = built.descriptor(inside + _TEXT)
        self._size = built.manifest.files[inside + _TEXT]["bytes"]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Passage]:
        return (self[position] for position in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Passage, ...]: ...
    def __getitem__(self, index: int | slice) -> Passage | tuple[Passage, ...]:
        if isinstance(index, slice):
            return tuple(self[position] for position in range(*index.indices(len(self))))
        length = self._length
        if not -length <= index < length:
            raise IndexError(f"expected a position below {length}, found {index}")
        try:
            place = self._starts_at + index % length * 8
            start, stop = _PLACE.unpack(os.pread(self._starts, _PLACE.size, place))
            return _decode(_read(self._text, start, stop, self._size))
        except (struct.error, ValueError, OSError) as problem:
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
        self._built.check()
        key = _hash_of(passage_id)
        for i in range(int(np.searchsorted(self._id_hashes, np.uint64(key))), len(self)):
            if self._id_hashes[i] != key:
                break
            position = int(self._id_positions[i])
            if 0 <= position < len(self) and (passage := self[position]).id == passage_id:
                return passage
        raise UnknownNameError(f"expected the id of a passage, found {passage_id!r}")

    def files(self) -> list[Path]:
        """Return the files that the passages are in."""
        return [self._built.path / self._inside / name for name in _FILES]

    def require(self, entries: dict[str, dict[str, Any]]) -> None:
        """Check that the files, linked or copied into an index, have the bytes that were built.

        Raises:
            IndexFormatError: If one has others.
        """
        for name in _FILES:
            if entries[f"{PASSAGES}/{name}"] != self._built.manifest.files[self._inside + name]:
                raise IndexFormatError(
                    f"{self._built.path / self._inside / name}: expected the bytes that were "
                    f"built, found others; {REBUILD}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the folder's name: another process opens the same build of it."""
        return type(self), (self._built,)


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
    with building(folder, PASSAGES) as (data, manifest):
        _write(passages, data, manifest)
    return StoredPassages(folder)


def put_passages(
    passages: Iterable[Passage] | StoredPassages, data: Path, manifest: Manifest
) -> StoredPassages:
    """Put the passages of an index beside its files, so that it depends on no other folder.

    Args:
        passages: The passages, in corpus order. Stored ones are linked, which takes no room, or
            copied where links cannot be made.
        data: Where the index is being built.
        manifest: Its manifest; gets their hash, number and files.

    Returns:
        The passages in their new place.

    Raises:
        CorpusFormatError: If two passages share an id.
        IndexFormatError: If stored ones are altered.
    """
    inside = data / PASSAGES
    inside.mkdir()
    if isinstance(passages, StoredPassages):
        for file in passages.files():
            _link(file, inside / file.name)
        manifest.corpus, manifest.documents = passages.hash, len(passages)
    else:
        _write(passages, inside, manifest)
    manifest.files = {f"{PASSAGES}/{name}": entry_of(inside / name) for name in _FILES}
    if isinstance(passages, StoredPassages):
        passages.require(manifest.files)
    return StoredPassages(Built(data.parent, manifest))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


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
    size = starts[-1]
    with (data / _TEXT).open("rb") as file:
        for i in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
            pair = positions[i : i + 2].tolist()
            records = (_read(file.fileno(), starts[p], starts[p + 1], size) for p in pair)
            first, second = (_decode(record).id for record in records)
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
    return Passage(
        record[_SIZES.size : title].decode("utf-8", "surrogatepass"),
        record[title:text].decode("utf-8", "surrogatepass"),
        record[text:].decode("utf-8", "surrogatepass"),
    )


def _hash_of(passage_id: str) -> int:
    data = passage_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _read(descriptor: int, start: int, stop: int, size: int) -> bytes:
    record = os.pread(descriptor, stop - start, start) if 0 <= start < stop <= size else b""
    if len(record) != stop - start:
        raise ValueError(f"a record from byte {start} to {stop} of {size}, cut off")
    return record
