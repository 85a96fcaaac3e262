"""Dotted names of settings, and the names that they had in earlier versions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from at2po_agents.errors import ConfigError

RENAMED = {
    "model": "model.name",
    "chat_template": "model.chat_template",
    "dtype": "model.dtype",
    "device": "model.device",
    "questions_per_step": "rollout.questions_per_step",
    "temperature": "rollout.temperature",
    "max_prompt_tokens": "rollout.max_prompt_tokens",
    "max_response_tokens": "rollout.max_response_tokens",
    "overlong_prompts": "rollout.overlong_prompts",
    "patience_s": "rollout.tool_wait_timeout_s",
    "learning_rate": "optim.learning_rate",
    "weight_decay": "optim.weight_decay",
    "grad_clip": "optim.grad_clip",
    "mini_batches": "optim.mini_batches",
    "token_budget": "optim.token_budget",
    "gradient_checkpointing": "optim.gradient_checkpointing",
    "offload": "optim.offload",
    "eval_every": "eval.every",
    "eval_questions": "eval.questions",
    "eval_env_options": "eval.env_options",
    "save_every": "checkpoint.every",
    "keep_checkpoints": "checkpoint.keep",
    "engine": "engine.name",
    "engine_options": "engine.options",
    "max_batch": "engine.max_batch",
    "collectors": "cluster.rollout_workers",
    "learners": "cluster.learner_workers",
    "collector_gpus": "cluster.rollout_worker_gpus",
    "learner_gpus": "cluster.learner_worker_gpus",
}
"""Settings that had other names in earlier versions, or no group, and those they have now."""


def names_of(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings and groups, such as "optim" and "optim.offload"."""
    for item in fields(config):
        yield prefix + item.name
        if is_dataclass(value := getattr(config, item.name)):
            yield from names_of(value, f"{prefix}{item.name}.")


def refuse_old_keys(settings: object, table: Mapping[str, Any]) -> None:
    """Refuse keys of a TOML table that had no group in earlier versions, or are like one.

    Args:
        settings: Any of the class that the table is read as.
        table: The table.

    Raises:
        ConfigError: There is one; the message has its present name.
    """
    known = set(names_of(settings))
    for name, value in _keys(table):
        new = _new_name(name, known)
        # `model = "mini"` has the name of what is a group now.
        as_text = new == f"{name}.name" and not isinstance(value, Mapping)
        if new and (name not in known or as_text):
            group, _, key = new.rpartition(".")
            raise ConfigError(f"unknown key {name!r}; did you mean {key!r} in the table [{group}]?")


def refuse_old_flags(settings: object, words: Sequence[str]) -> None:
    """Refuse options of a command that had no group in earlier versions, or are like one.

    Args:
        settings: Any of the class that the command reads.
        words: The command line.

    Raises:
        ConfigError: There is one; the message has its present name.
    """
    known = set(names_of(settings))
    for word in words:
        flag = word.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_").removeprefix("no_")
        new = _new_name(name, known) if flag.startswith("--") and name not in known else None
        if new:
            raise ConfigError(f"unknown option {flag}; did you mean --{new.replace('_', '-')}?")


def _new_name(name: str, known: Collection[str]) -> str | None:
    """Return the present name of a setting of earlier versions, if this is like one."""
    prefix, dot, last = name.rpartition(".")
    moved = {
        old: f"{prefix}{dot}".removesuffix(f"{new.partition('.')[0]}.") + new
        for old, new in RENAMED.items()
    }
    moved = {old: new for old, new in moved.items() if new in known}
    close = get_close_matches(last, moved, n=1, cutoff=0.8)
    return moved[close[0]] if close else None


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of tables in each other, dotted, with their values."""
    for key, value in table.items():
        yield prefix + key, value
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
