"""The ways of rolling out that `benchmarks.speed.rollouts` compares, behind one interface."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np

from at2po_agents.engines import Completion, Engine, TransformersEngine
from at2po_agents.engines.transformers import engine as transformers_engine
from at2po_agents.policy.loading import load_policy
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.environments import make_env
from at2po_agents.rollout.expansion import Chains, EntropyGuided, Expansion
from at2po_envs.seeds import stable_hash
from benchmarks.environments.forced_turns import forced_env
from benchmarks.speed.plain_generate import PlainEngine
from benchmarks.speed.step_cost import counts

MAX_BATCH = 256
"""Most rows at a time in our engines, as in the demo."""

WARM_UP = -1
"""Number of the collection that only warms up, on two questions."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A rollout to be measured.

    Attributes:
        name: What the figures call it.
        model: As `at2po_agents.policy.loading.load_model` takes it.
        questions: Questions per collection.
        chains: Initial chains M.
        iterations: Expansions L; 0 for chains alone.
        beam: Forks K per expansion.
        max_prompt_tokens: Longest prompt.
        max_response_tokens: Most tokens after the prompt, inserted ones included.
        turns: Turns of every episode; 0 leaves that to the policy.
        ends: Where a turn ends, if turns are forced; empty for AT²PO's tags.
        env_options: Options of MiniWiki.
    """

    name: str
    model: str = "mini"
    questions: int = 16
    chains: int = 5
    iterations: int = 0
    beam: int = 1
    max_prompt_tokens: int = 256
    max_response_tokens: int = 512
    turns: int = 0
    ends: tuple[str, ...] = ()
    env_options: dict[str, Any] = field(default_factory=lambda: {"split": "train"})

    def expansion(self) -> Expansion:
        """Return the tree search, or chains."""
        if self.iterations:
            return EntropyGuided(self.chains, self.iterations, self.beam)
        return Chains(self.chains)

    def env(self) -> Any:
        """Return the environment; equal settings share what is costly to make."""
        if self.turns:
            return forced_env(self.turns, self.env_options, self.ends)
        return make_env("at2po/MiniWiki-v0", self.env_options)


class Way(Protocol):
    """One way of rolling out."""

    def measure(self, setting: Setting, number: int) -> dict[str, Any]:
        """Collect once, with nothing computed before, and count.

        Args:
            setting: What is collected.
            number: Which questions and seed, or `WARM_UP`.

        Returns:
            JSON-able figures, those of the table at least.

        Raises:
            ModelNotFoundError: If this Python lacks the setting's model.
        """
        ...

    def close(self) -> None:
        """Free what the way holds."""
        ...


class NoReuse(TransformersEngine):
    """Our engine with no cache of finished rows and no copies of running ones."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "cache_bytes": 0})

    def step(self) -> list[Completion]:
        """Step while no two rows seem to share a prefix."""
        with patch.object(transformers_engine, "common_prefix", _nothing_shared):
            return super().step()


def _nothing_shared(table: Any, lengths: Any, ids: Any) -> Any:
    return np.zeros_like(lengths)


@cache
def policy(name: str) -> tuple[Any, Any]:
    """Load a model in float32 and its tokenizer, once."""
    return load_policy(name, "float32", "model")


class EngineWay:
    """A way that is an engine under our collector.

    Args:
        make: Makes the engine of a setting.
    """

    def __init__(self, make: Callable[[Setting], Engine]) -> None:
        self.make = make
        self.collectors: dict[Setting | str, Collector] = {}

    def measure(self, setting: Setting, number: int) -> dict[str, Any]:
        """Collect trees, and read off the engine what they cost."""
        collector = self.collectors.get(setting.name) or self._collector(setting)
        self.collectors[setting.name] = collector
        engine, stats = collector.engine, collector.engine.stats
        engine.load_weights(policy(setting.model)[0].state_dict())  # empties the cache
        prefilled, reused = stats.prefilled, stats.reused
        asked = chosen(collector.env, setting, number)
        start = time.perf_counter()
        trees = collector.collect(
            asked, setting.expansion(), seed=stable_hash("rollout_speed", setting.name, number)
        )
        seconds = time.perf_counter() - start
        return {
            "seconds": round(seconds, 4),
            **counts(trees),
            "prefilled": stats.prefilled - prefilled,
            "reused": stats.reused - reused,
        }

    def close(self) -> None:
        """Drop the engines."""
        for collector in self.collectors.values():
            collector.engine.close()
        self.collectors.clear()

    def _collector(self, setting: Setting) -> Collector:
        model, tokenizer = policy(setting.model)
        return Collector(
            setting.env(),
            self.make(setting),
            tokenizer,
            max_prompt_tokens=setting.max_prompt_tokens,
            max_response_tokens=setting.max_response_tokens,
            context=model.config.max_position_embeddings,
        )


def chosen(env: Any, setting: Setting, number: int) -> list[Any]:
    """Return the questions of a collection; those of a warm-up are the first two."""
    known = env.questions
    if number == WARM_UP:
        return list(known[: min(2, setting.questions)])
    start = number * setting.questions
    return [known[i % len(known)] for i in range(start, start + setting.questions)]


def own_ways() -> dict[str, EngineWay]:
    """Return the ways that run in this Python, by name."""
    return {
        "ours": EngineWay(lambda s: TransformersEngine(*policy(s.model), max_batch=MAX_BATCH)),
        "ours, no reuse": EngineWay(lambda s: NoReuse(*policy(s.model), max_batch=MAX_BATCH)),
        "generate loop": EngineWay(lambda s: PlainEngine(*policy(s.model))),
    }
