"""Corpus files of passages."""

from __future__ import annotations

import json
from collections.abc import Iterable

from retrieval import Passage


def rows(passages: Iterable[Passage]) -> str:
    """The text of a corpus file in the wiki-18 format."""
    return "".join(json.dumps({"id": p.id, "contents": p.contents}) + "\n" for p in passages)
