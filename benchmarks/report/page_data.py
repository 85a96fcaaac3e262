"""The data within a page: an index of the questions, and packed blocks of turns.

The index is read when the page opens, a block only when a question in it is looked at. In a block
equal lines are kept once: turns of a tree are often answered with the same passages. What is left
is compressed, as browsers can unpack gzip themselves.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.cases import Case, Collection, Pair

_BLOCK_CHARS = 1 << 20
"""Characters of turns after which a block is full: it unpacks in some hundredths of a second."""


def embed(collections: Sequence[Collection]) -> str:
    """Return collections as elements of a page; no text can end them early.

    Args:
        collections: What the explorer shows.

    Returns:
        `<script>` elements that hold data and are never run.
    """
    blocks: list[_Block] = []
    index = [_describe(collection, blocks) for collection in collections]
    text = json.dumps(index, separators=(",", ":")).replace("<", "\\u003c")
    packed = (
        f'<script type="text/plain" class="block">{block.pack()}</script>' for block in blocks
    )
    return f'<script type="application/json" id="index">{text}</script>{"".join(packed)}'


def _describe(collection: Collection, blocks: list[_Block]) -> dict[str, Any]:
    return {
        "name": collection.name,
        "sides": list(collection.sides),
        "cases": [_entry(pair, blocks) for pair in collection.pairs],
    }


def _entry(pair: Pair, blocks: list[_Block]) -> dict[str, Any]:
    known: Case = next(case for case in pair if case is not None)
    if not blocks or blocks[-1].chars > _BLOCK_CHARS:
        blocks.append(_Block())
    return {
        "question": known.question,
        "golds": list(known.golden_answers),
        "sides": [case and case.figures() for case in pair],
        "at": [len(blocks) - 1, blocks[-1].add(pair)],
    }


class _Block:
    """Turns of some questions."""

    def __init__(self) -> None:
        self.chars = 0
        self.lines: dict[str, int] = {}
        self.pairs: list[list[list[dict[str, Any]] | None]] = []

    def add(self, pair: Pair) -> int:
        """Take the turns of a question in, and return its position in the block."""
        turns = [None if case is None else list(map(self._turn, case.nodes)) for case in pair]
        self.pairs.append(turns)
        return len(self.pairs) - 1

    def pack(self) -> str:
        """Return the block as the text of an element."""
        content = {"lines": list(self.lines), "pairs": self.pairs}
        text = json.dumps(content, separators=(",", ":"))
        # Without the time of day in it: the same turns give the same page.
        return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

    def _turn(self, node: Mapping[str, Any]) -> dict[str, Any]:
        texts = {name: self._text(node[name]) for name in ("action", "observation") if name in node}
        return {**node, **texts}

    def _text(self, text: str) -> list[int]:
        """Replace a text by the numbers of its lines."""
        self.chars += len(text)
        return [self.lines.setdefault(line, len(self.lines)) for line in text.split("\n")]
