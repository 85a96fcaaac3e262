"""Seeds by hashing: every draw of a run follows from what is drawn, not from when."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """Derive a seed from a path of names and numbers.

    Args:
        *parts: Strings, integers or tuples of them, such as run seed, step, question, node path.

    Returns:
        An integer in [0, 2**64), the same in every process.
    """
    digest = hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
