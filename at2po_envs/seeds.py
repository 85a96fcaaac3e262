"""What generated worlds share: the splits, and hashes that seeds and choices are made of."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "test"]


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts that is the same in every process.

    Args:
        *parts: Strings, numbers or tuples of them; told apart by their ``repr``.

    Returns:
        An integer in [0, 2**64).
    """
    digest = hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
