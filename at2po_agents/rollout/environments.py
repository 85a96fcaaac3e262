"""Environments by Gymnasium id: the only way in which this package reaches them."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Mapping
from typing import Any, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from at2po_agents.errors import EnvironmentNotFoundError
from at2po_envs import ForkableEnv

_log = logging.getLogger(__name__)


def make_env(env_id: str, options: Mapping[str, object] | None = None) -> ForkableEnv:
    """Make an environment that rollouts can fork.

    A text environment of somebody else, which cannot be forked, is played through
    `at2po/Replay-v0`, which forks it by replaying actions.

    Args:
        env_id: A Gymnasium id; `"module:namespace/Name-v0"` imports the module that registers it.
        options: Keyword arguments of the environment.

    Returns:
        The environment without wrappers.

    Raises:
        EnvironmentNotFoundError: If no environment has that id, or it cannot be forked.
    """
    made = _make(_full(env_id), dict(options or {}))
    if isinstance(env := made.unwrapped, ForkableEnv):
        return env
    made.close()
    _log.info("%s cannot be forked itself; it is forked by replaying actions", env_id)
    replayed = {"env": env_id, "env_options": dict(options or {})}
    try:
        return cast(ForkableEnv, _make("at2po_envs:at2po/Replay-v0", replayed).unwrapped)
    except ValueError as error:
        raise EnvironmentNotFoundError(
            f"{env_id}: expected an at2po_envs.ForkableTextEnv or an environment of texts, found "
            f"{type(made.unwrapped).__name__}: {error}"
        ) from error


def check_id(env_id: str) -> None:
    """Check that an environment has that id, without making it.

    Args:
        env_id: As for `make_env`.

    Raises:
        EnvironmentNotFoundError: If no environment has it.
    """
    _spec(_full(env_id))


def on_test_split(env_id: str, options: Mapping[str, object]) -> dict[str, object]:
    """Add `split="test"` to an environment's options, unless they name one or it has none.

    Args:
        env_id: As for `make_env`.
        options: Keyword arguments of the environment.

    Returns:
        The options to evaluate with.
    """
    entry_point = _spec(_full(env_id)).entry_point
    made = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    parameters = inspect.signature(made).parameters if made else {}
    return {"split": "test", **options} if "split" in parameters else dict(options)


def _full(env_id: str) -> str:
    """The id with the module that registers it, which ours may leave out."""
    return f"at2po_envs:{env_id}" if env_id.startswith("at2po/") else env_id


def _spec(env_id: str) -> EnvSpec:
    """Return what is registered under an id, whose module is imported for that."""
    module, colon, name = env_id.rpartition(":")
    try:
        if colon:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise EnvironmentNotFoundError(
            f"expected the id of an environment, found {env_id!r}: {error}; ids of other packages "
            "are written module:namespace/Name-v0, with the module on PYTHONPATH"
        ) from error


def _make(env_id: str, options: Mapping[str, Any]) -> gymnasium.Env[str, str]:
    spec = _spec(env_id)
    try:
        return gymnasium.make(spec, **options)
    except TypeError as error:
        raise EnvironmentNotFoundError(
            f"{env_id}: expected options that its constructor takes, found "
            f"{dict(options)!r}: {error}; look at the options, or at the constructor"
        ) from error
