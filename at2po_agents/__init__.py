"""Trainer of search agents: engines, rollout trees, credit, losses and the loop around them."""

from at2po_agents import algorithms, credit, losses
from at2po_agents.engines import Completion, Engine, Request, TransformersEngine
from at2po_agents.learner import Learner
from at2po_agents.rollout import Collector
from at2po_agents.trainer import Trainer
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
