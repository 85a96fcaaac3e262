"""What is written by hand: corpus files, and manifests that are not what was built."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from retrieval import Passage
from retrieval.storage.manifest import _digest


def rows(passages: Iterable[Passage]) -> str:
    """The text of a corpus file in the wiki-18 format."""
    return "".join(json.dumps({"id": p.id, "contents": p.contents}) + "\n" for p in passages)


def sealed(content: dict[str, Any]) -> str:
    """The text of a manifest of these fields, with the seal that belongs to them."""
    return json.dumps({**content, "seal": _digest(content)})
