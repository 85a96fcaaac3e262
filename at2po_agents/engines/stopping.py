"""Where a turn ends: end-of-sequence tokens and stop strings, found without re-encoding text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase


class StopStrings:
    """Tells cheaply which tokens can complete a stop string, so that few turns are decoded.

    Args:
        tokenizer: decodes ids.
        vocabulary: number of token ids that can be sampled.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._pieces: list[str] = []
        self._numbers: dict[tuple[str, ...], int] = {}
        self._tables = np.zeros((0, vocabulary), dtype=np.bool_)

    def number(self, stop: tuple[str, ...]) -> int:
        """Return the number under which `candidates` knows this tuple of stop strings."""
        if stop not in self._numbers:
            self._numbers[stop] = len(self._tables)
            self._tables = np.vstack([self._tables, self._candidate_table(stop)])
        return self._numbers[stop]

    def candidates(self, numbers: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return [rows] whether token `ids[r]` may complete one of the strings `numbers[r]`."""
        found: NDArray[np.bool_] = self._tables[numbers, ids]
        return found

    def text(self, ids: list[int]) -> str:
        """Decode sampled ids, without special tokens."""
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _candidate_table(self, stop: tuple[str, ...]) -> NDArray[np.bool_]:
        """Mark the tokens whose own text holds the last character of a stop string.

        A token may hold only part of a character's bytes, which decodes to U+FFFD, and some
        tokenizers drop a leading space of a lone token; both count as candidates.
        """
        if not stop:
            return np.zeros(self._vocabulary, dtype=np.bool_)
        if not self._pieces:
            self._pieces = [self.text([i]) for i in range(self._vocabulary)]
        last = {string[-1] for string in stop}
        if any(c.isspace() for c in last):
            return np.ones(self._vocabulary, dtype=np.bool_)
        if any(not c.isascii() for c in last):
            last.add("\ufffd")
        return np.array([not last.isdisjoint(piece) for piece in self._pieces], dtype=np.bool_)
