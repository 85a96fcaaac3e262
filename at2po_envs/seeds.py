"""Seeds by hashing: every draw follows from what is drawn, not from when; and what worlds share."""

from __future__ import annotations

import hashlib
from numbers import Integral
from typing import Literal

Split = Literal["train", "test"]


def plain_integer(name: str, value: object) -> int:
    """Return an integer as one of Python's, whose `repr` goes into hashes.

    Args:
        name: Of the setting, for the message.
        value: An integer of Python or NumPy.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name}: expected an integer, found {value!r}")
    return int(value)


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
