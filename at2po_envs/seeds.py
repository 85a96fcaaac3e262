"""Seeds by hashing: every draw follows from what is drawn, not from when; and what worlds share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

_T = TypeVar("_T")

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts that is the same in every process.

    Args:
        *parts: Strings, numbers or tuples of them, such as run seed, step, question and node path;
            told apart by their `repr`.

    Returns:
        An integer in [0, 2**64).
    """
    digest = hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def choose(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """Draw one of some options."""
    return options[int(rng.integers(len(options)))]
