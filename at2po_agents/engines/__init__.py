"""Generation engines: continuous batching on token ids behind one small protocol."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from at2po_agents.engines.base import Completion, Engine, EngineStats, Request
from at2po_agents.engines.factory import EngineName, make_engine

if TYPE_CHECKING:
    from at2po_agents.engines.transformers.engine import TransformersEngine

__all__ = [
    "Completion",
    "Engine",
    "EngineName",
    "EngineStats",
    "Request",
    "TransformersEngine",
    "make_engine",
]


def __getattr__(name: str) -> object:
    """Import the engine that needs torch and transformers when it is asked for."""
    if name != "TransformersEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.transformers.engine").TransformersEngine
