"""The algorithms, by name."""

from __future__ import annotations

import difflib
from typing import Any

from at2po_agents.algorithms.atpo import ATPO
from at2po_agents.algorithms.base import Algorithm
from at2po_agents.errors import ConfigError

#: Every algorithm that `get` knows.
REGISTRY: dict[str, type[Algorithm]] = {ATPO.name: ATPO}


def get(name: str, **settings: Any) -> Algorithm:
    """Build an algorithm from its name.

    Args:
        name: A key of `REGISTRY`.
        **settings: Fields of the algorithm that differ from the defaults.

    Returns:
        The algorithm.

    Raises:
        ConfigError: If no algorithm has that name.
    """
    if name not in REGISTRY:
        close = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}?" if close else "pick one of these"
        raise ConfigError(f"algorithm must be one of {', '.join(REGISTRY)}, found {name!r}; {hint}")
    return REGISTRY[name](**settings)


__all__ = ["ATPO", "REGISTRY", "Algorithm", "get"]
