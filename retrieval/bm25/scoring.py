"""How BM25 cuts texts into terms and weighs them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.bm25.analysis import VERSION, english, words
from retrieval.errors import SearchArgumentError
from retrieval.storage.manifest import parameters_of
from retrieval.storage.opening import Built

Style = Literal["bm25s", "lucene"]
"""`bm25s`: its analyzer and exact lengths. `lucene`: what Anserini's Lucene computes."""

_MAX_K1 = 1000  # above, term frequencies differ by less than the rounding of scores


@dataclass(frozen=True, slots=True)
class Scoring:
    """How terms are cut and weighed.

    Attributes:
        k1: Term-frequency saturation, in [0, 1000].
        b: Length normalisation, in [0, 1].
        style: Whose analyzer and arithmetic.
        analyzer_version: That of the analyzers; another one asks for another index.
    """

    k1: float = 0.9
    b: float = 0.4
    style: Style = "bm25s"
    analyzer_version: int = VERSION

    def __post_init__(self) -> None:
        numbers = all(
            isinstance(each, Real) and not isinstance(each, bool) for each in (self.k1, self.b)
        )
        if not (numbers and 0 <= self.k1 <= _MAX_K1 and 0 <= self.b <= 1):
            raise SearchArgumentError(
                f"expected k1 >= 0 (and at most {_MAX_K1}) and 0 <= b <= 1, found k1={self.k1!r}, "
                f"b={self.b!r}"
            )
        if self.style not in get_args(Style):
            raise SearchArgumentError(f"expected a style of {get_args(Style)}, found {self.style}")
        if self.analyzer_version != VERSION:
            raise SearchArgumentError(
                f"expected an analyzer of version {VERSION}, found {self.analyzer_version!r}"
            )

    @classmethod
    def of(cls, built: Built) -> Scoring:
        """Return the scoring of an index.

        Raises:
            IndexFormatError: If its manifest has none.
        """
        return parameters_of(built.manifest, built.folder, lambda kept: cls(**kept))

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text, repeated as often as they occur."""
        return english(text) if self.style == "lucene" else words(text)

    def weights(
        self, counts: NDArray[Any], lengths: NDArray[Any], mean: float, idf: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Weigh terms in passages.

        Args:
            counts: How often the term is in the passage.
            lengths: Terms of the passage.
            mean: Mean length of the corpus.
            idf: Inverse document frequency of the term.

        Returns:
            The weights, in the shape of the arguments.

        Source: Kamphuis et al. 2020, "Which BM25 Do You Mean?", table 1, Lucene (accurate), with
        the order of operations of `bm25s` 0.3, and that of Lucene 9 `BM25Similarity` in single
        precision for style `lucene`.
        """
        if self.style == "bm25s":
            saturation = self.k1 * ((1 - self.b) + self.b * lengths / mean)
            return np.asarray(idf * (counts / (saturation + counts)), np.float32)
        one, k1, b = np.float32(1), np.float32(self.k1), np.float32(self.b)
        rounded = byte_lengths(lengths).astype(np.float32)
        with np.errstate(divide="ignore"):  # with k1 = 0 a term counts in full wherever it is
            inverse = one / (k1 * ((one - b) + b * rounded / np.float32(mean)))
        return np.asarray(idf - idf / (one + counts.astype(np.float32) * inverse), np.float32)


def byte_lengths(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Round lengths as Lucene does, which keeps them in one byte.

    Args:
        lengths: Numbers of terms, >= 0.

    Returns:
        Up to 40 the number itself; above, 24 more than a number of four significant bits.

    Source: Lucene 9 `SmallFloat.intToByte4` and `byte4ToInt`.
    """
    above = np.maximum(np.asarray(lengths, np.int64) - 24, 0)
    shift = np.maximum(np.frexp(above)[1] - 4, 0)
    return np.where(lengths < 24, lengths, 24 + (above >> shift << shift))
