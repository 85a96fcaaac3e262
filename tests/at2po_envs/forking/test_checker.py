"""The checker of forkability: content with sound environments, and not with any planted fault."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import OrderEnforcing, TimeLimit

import at2po_envs  # noqa: F401 - registers the ids
from at2po_envs.forking.checker import ForkabilityError, check_forkable_env
from at2po_envs.forking.comparison import difference
from tests.at2po_envs import planted
from tests.at2po_envs.planted import Walk

FAULTS = {
    "one snapshot": (planted.OneSnapshot, "aliased snapshot", r"snapshot\['seen'\]"),
    "alias in snapshot": (planted.AliasInSnapshot, "aliased snapshot", r"\['seen'\] was \[\], is"),
    "alias in restore": (planted.AliasInRestore, "aliased snapshot", r"\['seen'\]"),
    "generator": (planted.ForgetsGenerator, "generator", "'_np_random'"),
    "done": (planted.ForgetsDone, "incomplete restore", "raised RuntimeError"),
    "index": (planted.ForgetsIndex, "incomplete restore", "'path 2', is 'path 1'"),
    "tool counter": (lambda: Walk(planted.Counter()), "outside state", "outlives reset"),
    "tool cache": (lambda: Walk(planted.Cache()), "outside state", "False.*, is .*True"),
    "timestamp": (planted.Timestamp, "not deterministic", r"\['time'\] was"),
    "class state": (planted.ClassState, "outside state", "played again"),
    "shared generator": (planted.SharedGenerator, "fork", "in the original after its twin"),
    "no copy": (planted.SharedCopy, "deepcopy", "in the original after its twin"),
    "unpicklable": (planted.Unpicklable, "not picklable", "the snapshot: .*lambda"),
    "hash order": (planted.HashOrder, "hash order", "in another process"),
    "time limit": (lambda: TimeLimit(Walk(), 100), "wrapper", r"'_elapsed_steps'\] was 0, is 4"),
    "wrapper that counts": (lambda: planted.Counting(Walk()), "wrapper", "'Counting'"),
    "wrapper that normalises": (
        lambda: planted.RunningMean(Walk()),
        "outside state",
        "outlives reset",
    ),
    "no snapshot": (lambda: gymnasium.make("CartPole-v1"), "no snapshot", "ForkableTextEnv"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(name):
    make, fault, detail = FAULTS[name]
    with pytest.raises(ForkabilityError, match=f"(?s){detail}") as caught:
        check_forkable_env(make(), episodes=1)
    assert caught.value.fault == fault


@pytest.mark.parametrize(
    "make",
    [
        Walk,
        lambda: OrderEnforcing(Walk()),
        lambda: planted.Prefixed(Walk()),
        lambda: gymnasium.make("at2po/MiniWiki-v0", questions=20, passages=100),
    ],
    ids=["Walk", "OrderEnforcing", "Prefixed", "MiniWiki"],
)
def test_a_sound_environment_passes(make):
    check_forkable_env(make(), episodes=2, seed=3)


def test_a_policy_replaces_random_actions():
    seen = []

    def policy(transcript):
        seen.append(transcript[-1])
        return f"walk {len(transcript)}"

    check_forkable_env(Walk(), episodes=1, actions=policy)
    assert len(seen) == 4 and "walk 1: " in seen[1] and "walk 3: " in seen[2]


def test_only_the_steps_asked_for_are_taken():
    class Endless(Walk):
        def step(self, action):
            assert len(self.seen) < 3
            return super().step(action)

    check_forkable_env(Endless(), episodes=1, max_steps=2)


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ForkabilityError("fork", 3, "x was 1, is 2")))
    assert (error.fault, error.step, error.detail) == ("fork", 3, "x was 1, is 2")
    assert str(error) == "fork, snapshot after 3 turns: x was 1, is 2"


class Box:
    def __init__(self, content):
        self.content = content


@pytest.mark.parametrize(
    ("before", "now", "where"),
    [
        ({"a": [1, (2, 3)]}, {"a": [1, (2, 4)]}, "x['a'][1][1] was 3, is 4"),
        ({"a": 1}, {}, "x['a'] was 1, is missing"),
        ({}, {"a": 1}, "x['a'] was missing, is 1"),
        ([1], [1, 2], "x was [1], is [1, 2]"),
        (1, 1.0, "x was 1, is 1.0"),
        (Box({1}), Box({2}), "x.content was {1}, is {2}"),
        (np.array([1.0]), np.array([2.0]), "x was array([1.]), is array([2.])"),
        ("a" * 500 + "b", "a" * 500 + "c", "x was ..." + "a" * 40 + "b', is ..." + "a" * 40 + "c'"),
    ],
)
def test_the_first_difference_is_said(before, now, where):
    assert difference(before, now, "x") == where


def test_what_is_equal_has_no_difference():
    loop: list = [1]
    loop.append(loop)
    other: list = [1]
    other.append(other)
    for before, now in [
        (float("nan"), float("nan")),
        (np.array([np.nan]), np.array([np.nan])),
        (Box([{"a": (1, None)}]), Box([{"a": (1, None)}])),
        (np.random.default_rng(1), np.random.default_rng(1)),
        (loop, other),
    ]:
        assert difference(before, now, "x") is None
    assert difference(np.random.default_rng(1), np.random.default_rng(2), "x") is not None


def test_the_how_to_runs():
    page = Path(__file__).parents[3] / "docs" / "how-to" / "forkable-environments.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ours = [block for block in blocks if "mypkg" not in block]
    assert len(ours) == 3
    exec("\n".join(ours), {})
