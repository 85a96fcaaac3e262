"""Finished rows kept for their keys and values, so that a turn or a fork recomputes no prefix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def common_prefix(
    table: NDArray[np.int64], lengths: NDArray[np.int64], ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many leading tokens each table row shares with `ids`.

    Args:
        table: [rows, width] token ids; row r is meaningful up to `lengths[r]`.
        lengths: [rows] at most `width`.
        ids: [n] token ids.
    """
    width = min(table.shape[1], len(ids))
    if width == 0:
        return np.zeros_like(lengths)
    differs = table[:, :width] != ids[:width]
    first = np.where(differs.any(1), differs.argmax(1), width)
    shared: NDArray[np.int64] = np.minimum(first, lengths)
    return shared


class PrefixCache:
    """Least-recently-used store of token sequences with their keys and values.

    Args:
        max_bytes: bound on the memory of the keys and values.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget everything, as after a change of weights."""
        self.bytes = 0
        self._kv: list[Tensor] = []
        self._table = np.zeros((0, 0), dtype=np.int64)
        self._lengths = np.zeros(0, dtype=np.int64)
        self._used = np.zeros(0, dtype=np.int64)
        self._clock = 0

    def longest(self, ids: NDArray[np.int64]) -> tuple[int, Tensor | None]:
        """Return the longest stored prefix of `ids`: its length and the entry that holds it."""
        size = len(self._kv)
        if size == 0:
            return 0, None
        shared = common_prefix(self._table[:size], self._lengths[:size], ids)
        best = int(shared.argmax())
        self._touch(best)
        return int(shared[best]), self._kv[best]

    def add(self, ids: NDArray[np.int64], kv: Tensor) -> None:
        """Store a copy of `kv` [..., len(ids), dim]; what it extends is dropped, then the oldest.

        Args:
            ids: [n] the tokens whose keys and values `kv` holds.
            kv: [layer, key or value, head, n, dim].
        """
        needed = kv.numel() * kv.element_size()
        if needed > self.max_bytes or len(ids) == 0:
            return
        size = len(self._kv)
        shared = common_prefix(self._table[:size], self._lengths[:size], ids)
        for entry in np.flatnonzero(shared == self._lengths[:size])[::-1]:
            self._drop(int(entry))
        while self.bytes + needed > self.max_bytes:
            self._drop(int(self._used[: len(self._kv)].argmin()))
        entry = len(self._kv)
        self._reserve(entry + 1, len(ids))
        self._kv.append(kv.clone())
        self._table[entry, : len(ids)] = ids
        self._lengths[entry] = len(ids)
        self.bytes += needed
        self._touch(entry)

    def _touch(self, entry: int) -> None:
        self._clock += 1
        self._used[entry] = self._clock

    def _drop(self, entry: int) -> None:
        """Remove an entry; the last one takes its place."""
        last = len(self._kv) - 1
        self.bytes -= self._kv[entry].numel() * self._kv[entry].element_size()
        self._kv[entry] = self._kv[last]
        self._kv.pop()
        for array in (self._table, self._lengths, self._used):
            array[entry] = array[last]

    def _reserve(self, entries: int, width: int) -> None:
        rows, columns = self._table.shape
        if entries <= rows and width <= columns:
            return
        more_rows = rows if entries <= rows else max(entries, 2 * rows)
        more_columns = columns if width <= columns else max(width, 2 * columns)
        self._table = np.pad(self._table, ((0, more_rows - rows), (0, more_columns - columns)))
        self._lengths = np.pad(self._lengths, (0, more_rows - rows))
        self._used = np.pad(self._used, (0, more_rows - rows))
