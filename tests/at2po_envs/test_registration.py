"""Every id: found, JSON-able, and run by every kind of vector environment."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from at2po_envs import Question, ToolEnv, ToolResult, ToolSpec
from at2po_envs.episode.vector import ForkableVectorEnv
from at2po_envs.errors import SnapshotError
from at2po_envs.forking.checker import check_forkable_env
from at2po_envs.question_sets.questions import QUESTION_SETS

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


@pytest.mark.parametrize("name", WORLDS)
def test_shared_memory_is_refused_by_name(name):
    given = WORLDS[name]
    with pytest.raises(ValueError, match="shared_memory=False") as caught:
        gymnasium.make_vec(name, num_envs=2, vectorization_mode="async", **given)
    assert "pass vector_kwargs={'shared_memory': False} to make_vec" in str(caught.value.__cause__)
    vector = gymnasium.make_vec(
        name,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"shared_memory": False},
        **given,
    )
    assert vector.observation_space.contains(vector.reset(seed=1)[0])
    vector.close()


SNAPSHOTS = {
    "at2po/MiniWiki-v0": [{"questions": 20, "passages": 100}, {"questions": 20, "seed": 3}],
    "at2po/Calculator-v0": [{}, {"level": 1}],
    "at2po/Household-v0": [{"questions": 5}, {"split": "test", "questions": 5}],
    "at2po/Replay-v0": [WORLDS["at2po/Replay-v0"]],
}  # fmt: skip
MADE = [(name, options) for name, each in SNAPSHOTS.items() for options in each]


@pytest.mark.parametrize(("name", "given"), MADE)
def test_a_snapshot_of_another_environment_is_refused_and_changes_nothing(name, given):
    env = gymnasium.make(name, **given).unwrapped
    env.reset(seed=0)
    before = env.snapshot()
    foreign = []
    for other, options in MADE:
        if (other, options) != (name, given):
            source = gymnasium.make(other, **options).unwrapped
            source.reset(seed=0)
            foreign.append(source.snapshot())
    generator = dict(before.generator)
    corrupt = [
        replace(before, generator=generator | {"bit_generator": "MT19937"}),
        replace(before, generator=generator | {"state": {}}),
        replace(before, generator=generator | {"state": {"state": -1, "inc": "x"}}),
        replace(before, generator={}),
        replace(before, generator=None),
        replace(before, state="a"),
        replace(before, state=replace(before.state, question=Question("q", "Who?", ()))),
        None,
        "a",
        before.state,
    ]
    env.restore(before)
    for snapshot in [*foreign, *corrupt]:
        with pytest.raises(SnapshotError, match="expected "):
            env.restore(snapshot)
        assert env.state is before.state and env.snapshot() == before
    env.restore(before)


@pytest.mark.parametrize("text", ["", "poem\n", "\0\x1b[2J", "\ud800", "\U0001f600" * 9, "e\u0301"])
def test_foreign_texts_are_in_the_spaces(text):
    env = ToolEnv([(f"What is {text}?", text)], [Say()])
    for observation in (env.reset(seed=0)[0], env.step("<think>a</think> <say> a </say>")[0]):
        assert env.observation_space.contains(observation)
    assert env.action_space.contains(text)


class Say:
    """Says what foreign passages say."""

    spec = ToolSpec("say", "Says it.", {"type": "object", "required": ["text"]})
    batched = True

    def __call__(self, arguments):
        return [ToolResult(True, "\ud800 \0 \x1b[31m \u202e \r\n")] * len(arguments)
