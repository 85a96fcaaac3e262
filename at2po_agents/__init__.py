"""Trainer of search agents: engines, rollout trees, credit, losses and the loop around them.

A name is imported when it is first asked for: torch and transformers take seconds, and many
commands need neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from at2po_agents import algorithms as algorithms
    from at2po_agents.algorithms import ClippedLoss as ClippedLoss
    from at2po_agents.algorithms import register_algorithm as register_algorithm
    from at2po_agents.config.train import TrainConfig as TrainConfig
    from at2po_agents.config.train import dump_config as dump_config
    from at2po_agents.config.train import load_config as load_config
    from at2po_agents.engines import Completion as Completion
    from at2po_agents.engines import Engine as Engine
    from at2po_agents.engines import Request as Request
    from at2po_agents.engines import TransformersEngine as TransformersEngine
    from at2po_agents.engines import make_engine as make_engine
    from at2po_agents.learner.learner import Learner as Learner
    from at2po_agents.objective import advantages as advantages
    from at2po_agents.objective import losses as losses
    from at2po_agents.objective import ratios as ratios
    from at2po_agents.policy.chat_template import QWEN3_TEMPLATE as QWEN3_TEMPLATE
    from at2po_agents.policy.chat_template import check_chat_template as check_chat_template
    from at2po_agents.policy.loading import load_model as load_model
    from at2po_agents.policy.loading import load_policy as load_policy
    from at2po_agents.rollout.agents import Reply as Reply
    from at2po_agents.rollout.collector import Collector as Collector
    from at2po_agents.rollout.environments import make_env as make_env
    from at2po_agents.rollout.expansion import Chains as Chains
    from at2po_agents.rollout.export import flat_rows as flat_rows
    from at2po_agents.rollout.export import grpo_batch as grpo_batch
    from at2po_agents.rollout.export import read_rows as read_rows
    from at2po_agents.rollout.export import write_rows as write_rows
    from at2po_agents.training.trainer import Trainer as Trainer
    from at2po_agents.tree import Node as Node
    from at2po_agents.tree import RolloutTree as RolloutTree

_NAMES = {
    "algorithms": "ClippedLoss register_algorithm",
    "config.train": "TrainConfig dump_config load_config",
    "engines": "Completion Engine Request TransformersEngine make_engine",
    "learner.learner": "Learner",
    "policy.chat_template": "QWEN3_TEMPLATE check_chat_template",
    "policy.loading": "load_model load_policy",
    "rollout.agents": "Reply",
    "rollout.collector": "Collector",
    "rollout.environments": "make_env",
    "rollout.expansion": "Chains",
    "rollout.export": "flat_rows grpo_batch read_rows write_rows",
    "training.trainer": "Trainer",
    "tree": "Node RolloutTree",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
_MODULES = {
    path.rpartition(".")[2]: path
    for path in ("algorithms", "objective.advantages", "objective.losses", "objective.ratios")
}

__all__ = [*_MODULES, *_HOMES]


def __getattr__(name: str) -> object:
    """Import what is named in `__all__` when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(f"{__name__}.{_MODULES.get(name) or _HOMES[name]}")
    except ModuleNotFoundError as error:
        from retrieval.extras import install_advice

        if advice := install_advice(error):
            raise ModuleNotFoundError(advice, name=error.name) from error
        raise
    return home if name in _MODULES else getattr(home, name)
