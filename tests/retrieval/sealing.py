"""Manifests that are not what was built, with the seal that belongs to them."""

from __future__ import annotations

import json
from typing import Any

from retrieval.storage.manifest import _digest


def sealed(content: dict[str, Any]) -> str:
    """The text of a manifest of these fields."""
    return json.dumps({**content, "seal": _digest(content)})
