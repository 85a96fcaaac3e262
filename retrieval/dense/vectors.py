"""A file that keeps the vectors of a corpus: ours by its head, whole by a hash of every chunk.

It starts with a line of JSON that names corpus and encoder, filled up with spaces to 4096 bytes;
then come 32 bytes a chunk, its hash or zeros, filled up to 4096 bytes too; then the vectors.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.dense.encoder import Encoder
from retrieval.errors import IndexFormatError
from retrieval.protocol import Corpus

_log = logging.getLogger(__name__)

_CHUNK = 4096
_BLOCK = 4096
_HASH_BYTES = 32


def encode_passages(passages: Corpus, encoder: Encoder, path: Path) -> NDArray[np.float32]:
    """Encode a corpus into a file, resumed where an earlier call was stopped.

    Chunks that are missing or damaged in the file are encoded again.

    Args:
        passages: The passages.
        encoder: The encoder.
        path: The file; made if missing, and left alone unless it is one of these.

    Returns:
        The vectors, mapped, float32, shape (passages, width).

    Raises:
        IndexFormatError: If the file is something else, has the vectors of another corpus or
            encoder, or is being written by another process.
    """
    head = _head(passages, encoder)
    width, count = encoder.width, len(passages)
    chunks = range(0, count, _CHUNK)
    start = _BLOCK + -(-len(chunks) * _HASH_BYTES // _BLOCK) * _BLOCK
    with _held(path, head) as file:
        # Whole chunks only: batches, and so the last bits of vectors, are those of an unbroken run.
        for number, first in enumerate(chunks):
            size = min(_CHUNK, count - first) * width * 4
            place, note = start + first * width * 4, _BLOCK + number * _HASH_BYTES
            kept = os.pread(file, size, place)
            if len(kept) == size and os.pread(file, _HASH_BYTES, note) == _hash(kept):
                continue
            texts = [passage.contents for passage in passages[first : first + _CHUNK]]
            vectors = encoder.encode(texts, "passage").astype(np.float32).tobytes()
            _write(file, vectors, place)
            _write(file, _hash(vectors), note)
            _log.info("encoded %d of %d passages", first + len(texts), count)
    if not count:
        return np.empty((0, width), np.float32)
    return np.memmap(path, np.float32, "r", offset=start, shape=(count, width))


def _head(passages: Corpus, encoder: Encoder) -> bytes:
    owner = {"corpus": passages.hash, "passages": len(passages), "width": encoder.width}
    text = json.dumps(
        {"at2po": "vectors of passages", **owner, "encoder": asdict(encoder.settings)}
    )
    head = text.encode().ljust(_BLOCK - 1) + b"\n"
    if len(head) > _BLOCK:
        raise IndexFormatError(
            f"expected an encoder that is described in {_BLOCK} bytes, found {text[:200]}; shorten "
            "its prefixes"
        )
    return head


@contextmanager
def _held(path: Path, head: bytes) -> Iterator[int]:
    """Open the file as its only writer; a new or empty one gets its head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except IsADirectoryError:
        raise _foreign(path, "a folder") from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise _foreign(path, "something else than a file")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _foreign(path, "another process that writes to it") from None
        if not os.fstat(file).st_size:
            _write(file, head, 0)
        elif os.pread(file, _BLOCK, 0) != head:
            raise _foreign(path, "others")
        yield file
        os.fsync(file)
    finally:
        os.close(file)


def _foreign(path: Path, found: str) -> IndexFormatError:
    return IndexFormatError(
        f"{path}: expected vectors of this corpus and encoder, found {found}; choose another file, "
        "or remove it"
    )


def _write(file: int, data: bytes, place: int) -> None:
    while data:  # what is larger than 2 GiB, or meets a full disk, is written in part
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
