"""Environments by Gymnasium id: the only way in which this package reaches them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from at2po_agents.errors import EnvironmentNotFoundError


def make_env(env_id: str, options: Mapping[str, Any] | None = None) -> Any:
    """Make an environment that rollouts can fork.

    Args:
        env_id: A Gymnasium id; `"module:namespace/Name-v0"` imports the module that registers it.
        options: Keyword arguments of the environment.

    Returns:
        The environment without wrappers, with `core`, `questions` and `run_tools`.

    Raises:
        EnvironmentNotFoundError: If no environment has that id, or it cannot be forked.
    """
    module = "at2po_envs:" if env_id.startswith("at2po/") else ""
    try:
        env: Any = gymnasium.make(module + env_id, **dict(options or {})).unwrapped
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as error:
        raise EnvironmentNotFoundError(
            f"expected the id of an environment, found {env_id!r}: {error}; ids of other packages "
            "are written module:namespace/Name-v0"
        ) from error
    except TypeError as error:
        raise EnvironmentNotFoundError(f"{env_id}: unknown option: {error}") from error
    missing = [name for name in ("core", "questions", "run_tools") if not hasattr(env, name)]
    if missing:
        raise EnvironmentNotFoundError(
            f"{env_id}: expected an at2po_envs.ForkableTextEnv, found {type(env).__name__} without "
            f"{', '.join(missing)}"
        )
    return env
