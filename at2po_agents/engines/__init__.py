"""Generation engines: continuous batching on token ids behind one small protocol."""

from at2po_agents.engines.base import Completion, Engine, EngineStats, Request
from at2po_agents.engines.factory import EngineName, make_engine
from at2po_agents.engines.transformers_engine import TransformersEngine

__all__ = [
    "Completion",
    "Engine",
    "EngineName",
    "EngineStats",
    "Request",
    "TransformersEngine",
    "make_engine",
]
