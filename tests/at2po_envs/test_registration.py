"""Every id: found, JSON-able, and run by every kind of vector environment."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import at2po_envs  # noqa: F401 - registers the ids
from at2po_envs.checker import check_forkable_env
from at2po_envs.questions import QUESTION_SETS
from at2po_envs.vector import ForkableVectorEnv

IDS = sorted(name for name in gymnasium.registry if name.startswith("at2po/"))
WORLDS: dict[str, dict[str, Any]] = {
    "at2po/MiniWiki-v0": {"questions": 20, "passages": 100},
    "at2po/Calculator-v0": {},
    "at2po/Household-v0": {},
    "at2po/Replay-v0": {"env": "tests.at2po_envs.third_party:third/Corridor-v0", "episodes": 9},
}


def options(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments that keep an environment small; a question set needs the data pack."""
    if name not in WORLDS:
        request.getfixturevalue("at2po_data")
        return {"split": "test"}
    return WORLDS[name]


def test_the_ids_are_those_promised():
    assert IDS == sorted([f"at2po/{name}-v0" for name in QUESTION_SETS] + list(WORLDS))


@pytest.mark.parametrize("name", IDS)
def test_specs_are_strings_that_lead_somewhere(name):
    spec = gymnasium.spec(name)
    assert pickle.loads(pickle.dumps(spec)) == spec == EnvSpec.from_json(spec.to_json())
    assert callable(load_env_creator(spec.entry_point))
    assert callable(load_env_creator(spec.vector_entry_point))


@pytest.mark.parametrize("name", IDS)
def test_both_checkers_are_content(name, request):
    env = gymnasium.make(name, render_mode="ansi", **options(name, request))
    check_env(env.unwrapped)
    check_forkable_env(env, episodes=1)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "more"),
    [(name, {}) for name in IDS]
    + [("at2po/HotpotQA-v0", {"dialect": dialect}) for dialect in ("search-r1", "tool-calls")],
)
def test_random_bytes_are_actions_with_a_defined_outcome(name, more, count, request):
    env = gymnasium.make(name, **options(name, request), **more).unwrapped
    rng = np.random.default_rng(count)
    markup = [piece for template in env.core.dialect.templates for piece in template.split()]
    env.reset(seed=0)
    for _ in range(count):
        noise = rng.bytes(int(rng.integers(0, 60))).decode("utf-8", "surrogateescape")
        pieces = [*rng.choice([*markup, ""], size=3), noise]
        action = "".join(pieces[i] for i in rng.permutation(4))
        observation, reward, terminated, truncated, info = env.step(action)
        assert isinstance(observation, str) and np.isfinite(reward)
        assert info["turns"] == len(env.state.turns)
        if terminated or truncated:
            assert {"answer", "em", "f1", "format_ok"} <= info.keys()
            env.reset()


@pytest.mark.parametrize("name", IDS)
def test_every_kind_of_vector_runs_it_alike(name, request):
    given = options(name, request)
    makers = [lambda: gymnasium.make(name, **given)] * 2
    vectors = [
        gymnasium.make_vec(name, num_envs=2, **given),
        SyncVectorEnv(makers),
        AsyncVectorEnv(makers, shared_memory=False),
    ]
    assert isinstance(vectors[0], ForkableVectorEnv)
    vectors[0].action_space.seed(0)
    seen: list[list[Any]] = [[vector.reset(seed=5)[0]] for vector in vectors]
    for _ in range(4):
        actions = vectors[0].action_space.sample()
        for vector, outcomes in zip(vectors, seen, strict=True):
            observations, *arrays, infos = vector.step(actions)
            outcomes += [observations, *(a.tolist() for a in arrays), sorted(infos)]
    assert seen[0] == seen[1] == seen[2]
    for vector in vectors:
        vector.close()
