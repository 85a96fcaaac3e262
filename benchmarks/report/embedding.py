"""The data within a page: an index of the questions, packed blocks of turns, and the time line.

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
from benchmarks.report.processes import Piece, Processes

_BLOCK_CHARS = 1 << 20
"""Characters of turns after which a block is full: it unpacks in some hundredths of a second."""

_TICKS_PER_S = 10_000
"""Times of a time line are whole numbers of these: as exact as they were written down."""


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


def embed_processes(processes: Processes) -> str:
    """Return a time line as an element of a page.

    Args:
        processes: The time line.

    Returns:
        A `<script>` element that holds data and is never run.
    """
    stages = [stage.name for stage in processes.stages]
    content = {
        "stages": stages,
        "steps": [[step.number, _ticks(step.start), _ticks(step.end)] for step in processes.steps],
        "lanes": [_lane(actor, lane, stages) for actor, lane in processes.lanes.items()],
    }
    return f'<script type="text/plain" id="timeline">{_pack(content)}</script>'


def _lane(actor: str, lane: Sequence[Piece], stages: Sequence[str]) -> dict[str, Any]:
    """Columns of a lane; a piece's start is told by how long after the one before it began."""
    starts = [_ticks(span.start) for _, span in lane]
    return {
        "name": actor,
        "stage": [stages.index(span.stage) for _, span in lane],
        "step": [step for step, _ in lane],
        "later": [start - before for before, start in zip([0, *starts], starts, strict=False)],
        "length": [max(0, _ticks(span.end) - _ticks(span.start)) for _, span in lane],
        "tokens": [span.tokens for _, span in lane],
    }


def _ticks(seconds: float) -> int:
    return round(seconds * _TICKS_PER_S)


def _pack(content: Mapping[str, Any]) -> str:
    """Return base64 of gzipped JSON; the same content gives the same text."""
    text = json.dumps(content, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


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
        return _pack({"lines": list(self.lines), "pairs": self.pairs})

    def _turn(self, node: Mapping[str, Any]) -> dict[str, Any]:
        texts = {name: self._text(node[name]) for name in ("action", "observation") if name in node}
        return {**node, **texts}

    def _text(self, text: str) -> list[int]:
        """Replace a text by the numbers of its lines."""
        self.chars += len(text)
        return [self.lines.setdefault(line, len(self.lines)) for line in text.split("\n")]
