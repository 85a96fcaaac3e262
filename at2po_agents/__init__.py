"""Trainer of search agents: engines, rollout trees, credit, losses and the loop around them.

A name is imported when it is first asked for: torch and transformers take seconds, and many
commands need neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from at2po_agents import algorithms
    from at2po_agents.algorithms import ClippedLoss, register_algorithm
    from at2po_agents.config.train import TrainConfig, dump_config, load_config
    from at2po_agents.engines import Completion, Engine, Request, TransformersEngine, make_engine
    from at2po_agents.learner.learner import Learner
    from at2po_agents.objective import advantages, losses, ratios
    from at2po_agents.policy.chat_template import QWEN3_TEMPLATE, check_chat_template
    from at2po_agents.policy.loading import load_model, load_policy
    from at2po_agents.rollout.agents import Reply
    from at2po_agents.rollout.collector import Collector
    from at2po_agents.rollout.environments import make_env
    from at2po_agents.rollout.expansion import Chains
    from at2po_agents.rollout.export import flat_rows, grpo_batch, read_rows, write_rows
    from at2po_agents.training.trainer import Trainer
    from at2po_agents.tree import Node, RolloutTree

__all__ = [
    "Chains",
    "ClippedLoss",
    "Collector",
    "Completion",
    "Engine",
    "Learner",
    "Node",
    "QWEN3_TEMPLATE",
    "Reply",
    "Request",
    "RolloutTree",
    "TrainConfig",
    "Trainer",
    "TransformersEngine",
    "advantages",
    "algorithms",
    "check_chat_template",
    "dump_config",
    "flat_rows",
    "grpo_batch",
    "load_config",
    "load_model",
    "load_policy",
    "losses",
    "make_engine",
    "make_env",
    "ratios",
    "read_rows",
    "register_algorithm",
    "write_rows",
]

_HOMES = {
    "Chains": "rollout.expansion",
    "ClippedLoss": "algorithms",
    "Collector": "rollout.collector",
    "Completion": "engines",
    "Engine": "engines",
    "Learner": "learner.learner",
    "Node": "tree",
    "QWEN3_TEMPLATE": "policy.chat_template",
    "Request": "engines",
    "Reply": "rollout.agents",
    "RolloutTree": "tree",
    "TrainConfig": "config.train",
    "Trainer": "training.trainer",
    "TransformersEngine": "engines",
    "advantages": "objective",
    "check_chat_template": "policy.chat_template",
    "dump_config": "config.train",
    "flat_rows": "rollout.export",
    "grpo_batch": "rollout.export",
    "load_config": "config.train",
    "load_model": "policy.loading",
    "load_policy": "policy.loading",
    "losses": "objective",
    "make_engine": "engines",
    "make_env": "rollout.environments",
    "ratios": "objective",
    "read_rows": "rollout.export",
    "register_algorithm": "algorithms",
    "write_rows": "rollout.export",
}


def __getattr__(name: str) -> Any:
    """Import what is named in `__all__` when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(f"{__name__}.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as error:
        from retrieval.extras import install_advice

        if advice := install_advice(error):
            raise ModuleNotFoundError(advice, name=error.name) from error
        raise
    return getattr(home, name) if name in _HOMES else home
