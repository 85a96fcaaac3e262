"""Trainer of search agents: engines, rollout trees, credit, losses and the loop around them.

A name is imported when it is first asked for: torch and transformers take seconds, and many
commands need neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from at2po_agents import algorithms
    from at2po_agents.engines import Completion, Engine, Request, TransformersEngine
    from at2po_agents.learner.learner import Learner
    from at2po_agents.objective import credit, losses
    from at2po_agents.rollout.collector import Collector
    from at2po_agents.training.trainer import Trainer
    from at2po_agents.tree import Node, RolloutTree

__all__ = [
    "Collector",
    "Completion",
    "Engine",
    "Learner",
    "Node",
    "Request",
    "RolloutTree",
    "Trainer",
    "TransformersEngine",
    "algorithms",
    "credit",
    "losses",
]

_HOMES = {
    "Collector": "rollout.collector",
    "Completion": "engines",
    "Engine": "engines",
    "Learner": "learner.learner",
    "Node": "tree",
    "Request": "engines",
    "RolloutTree": "tree",
    "Trainer": "training.trainer",
    "TransformersEngine": "engines",
    "credit": "objective",
    "losses": "objective",
}


def __getattr__(name: str) -> Any:
    """Import what is named in `__all__` when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES.get(name, name)}")
    return getattr(home, name) if name in _HOMES else home
