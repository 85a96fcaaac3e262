"""A Gymnasium space of texts that any bounded string belongs to."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.spaces import Text
from gymnasium.vector.utils import create_shared_memory

MAX_TEXT_LENGTH = 1_000_000

# Characters that samples are made of; membership does not depend on them.
_CHARSET = string.ascii_letters + string.digits + string.punctuation + " "


class TextSpace(Text):
    """All strings up to a length, in any script; samples are short and can follow templates.

    Args:
        max_length: Longest string in the space, in characters, >= 1.
        templates: Texts with one `{}`; a sample is one of them, filled with random words.
    """

    def __init__(
        self, max_length: int = MAX_TEXT_LENGTH, *, templates: tuple[str, ...] = ("{}",)
    ) -> None:
        """Choose the bound and the form of samples."""
        super().__init__(max_length, min_length=0, charset=_CHARSET)
        self.templates = templates

    def contains(self, x: Any) -> bool:
        """Return whether `x` is a string that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a random template filled with one to three random words.

        Args:
            mask: As in `gymnasium.spaces.Text.sample`, whose behaviour it then gets.
            probability: As `mask`.

        Returns:
            A text of the space, drawn with the space's own generator.
        """
        if mask is not None or probability is not None:
            return super().sample(mask=mask, probability=probability)
        letters = np.array(list(string.ascii_lowercase))
        lengths = self.np_random.integers(2, 9, size=self.np_random.integers(1, 4))
        words = ["".join(self.np_random.choice(letters, size=n)) for n in lengths]
        template = self.templates[self.np_random.integers(len(self.templates))]
        return template.format(" ".join(words))[: self.max_length]

    def __repr__(self) -> str:
        """Return a short name (the character set says nothing about membership)."""
        return f"TextSpace(max_length={self.max_length})"


@create_shared_memory.register(TextSpace)
def _refuse_shared_memory(space: TextSpace, n: int = 1, ctx: Any = None) -> Any:
    # Gymnasium's shared memory holds nothing but the characters of samples, and its
    # AsyncVectorEnv reads texts from it once, before the first reset.
    raise CustomSpaceError(
        f"expected shared_memory=False for observations of {space}, found True; pass "
        "vector_kwargs={'shared_memory': False} to make_vec, or leave out vectorization_mode: "
        "at2po environments bring a vector environment of their own"
    )
