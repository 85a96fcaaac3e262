"""Forking by replay: a text environment of somebody else becomes forkable, or says why not."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Text
from gymnasium.utils.env_checker import check_env

import at2po_envs  # noqa: F401 - registers the ids
from at2po_envs import Outcome
from at2po_envs.dialects.raw_text import RawText
from at2po_envs.errors import EpisodeOverError
from at2po_envs.forking.checker import check_forkable_env
from at2po_envs.forking.replay import NotATextEnvError, ReplayError, ReplayFork
from tests.at2po_envs.third_party import Corridor, Drifting, Fragile

RIGHT, LEFT = "go right\n", "go left\n"


def play(env, actions, **reset):
    return [env.reset(**reset), *(env.step(action) for action in actions)]


def test_it_is_the_environment_itself_line_by_line():
    plain, replayed = Corridor(), ReplayFork(Corridor)
    for seed in range(5):
        first, _ = plain.reset(seed=seed)
        assert replayed.reset(options={"question_id": f"seed-{seed}"})[0] == first + "\n"
        for action in ("go left", "look", "go right", "go right", "go right"):
            observation, reward, terminated, truncated, _ = plain.step(action)
            took = replayed.step(action + "\n")
            assert took[:4] == (observation + "\n", reward, terminated, truncated)
            if terminated:
                break


def test_a_won_episode_counts_as_an_exact_match():
    env = ReplayFork(Corridor, env_options={"length": 2})
    *_, last = play(env, [RIGHT, RIGHT], seed=0)
    assert last[1:4] == (1.0, True, False)
    assert {k: last[4][k] for k in ("em", "f1", "format_ok", "answer", "reward_env")} == {
        "em": True,
        "f1": 1.0,
        "format_ok": True,
        "answer": None,
        "reward_env": 1.0,
    }
    record = env.record(env.state, Outcome.from_info(last[4]))
    assert record["em"] and record["reward"] == 1.0 and record["turns"] == 2
    strict = ReplayFork(Corridor, env_options={"length": 2}, success=1.0)
    assert play(strict, [RIGHT, RIGHT], seed=0)[-1][4]["em"] is False
    with pytest.raises(EpisodeOverError):
        env.step(RIGHT)


def test_forks_replay_and_only_they_do():
    Corridor.resets = 0
    env = ReplayFork(Corridor, env_options={"length": 9})
    env.reset(seed=1)
    for _ in range(4):
        env.step(RIGHT)
    assert Corridor.resets == 1
    forks = [env.fork() for _ in range(3)]
    seen = [fork.step(LEFT) for fork in forks]
    assert seen[0] == seen[1] == seen[2] and Corridor.resets == 3
    assert env.step(RIGHT) != seen[0] and Corridor.resets == 4


def test_the_pool_stays_small_and_episodes_in_turn_go_on():
    made = []

    def make():
        made.append(Corridor(length=30))
        return made[-1]

    env = ReplayFork(make, live=2)
    forks = [env.fork() for _ in range(4)]
    for number, fork in enumerate(forks):
        fork.reset(seed=number)
    for _ in range(3):
        seen = [fork.step(RIGHT)[4]["turns"] for fork in forks]
    assert seen == [3] * 4 and len(made) <= 3 and len(env.core._pool) <= 2
    env.close()
    assert env.core._pool == [] and all(each.closed for each in made[-2:])


@pytest.mark.parametrize("what", ["observation", "reward", "terminated", "first observation"])
def test_an_environment_that_does_not_repeat_itself_is_refused(what, monkeypatch):
    monkeypatch.setattr(Drifting, "clock", itertools.count())
    env = ReplayFork(Drifting, env_options={"what": what})
    env.reset(seed=0)
    env.step(RIGHT)
    fork = env.fork()
    env.step(RIGHT)
    with pytest.raises(ReplayError, match=f"{what} was .* and is .* when replayed"):
        fork.step(RIGHT)


def test_an_environment_that_fails_ends_its_episode_and_no_other(caplog):
    env = ReplayFork(Fragile)
    *_, last = play(env, [RIGHT, "\ud800 crash\n"], seed=0)
    assert last[:4] == ("", 0.0, False, True) and last[4]["flags"] == ("env_failed",)
    assert "failed at" in caplog.text
    assert play(env, [RIGHT], seed=0)[-1][4]["flags"] == ()


def test_a_turn_without_budget_ends_the_episode_unseen():
    core = ReplayFork(Corridor).core
    state, _ = core.begin(ReplayFork(Corridor).questions[0])
    cut = core.truncate(state, "go ri")
    assert cut.truncated and not cut.terminated and cut.info["em"] is False
    assert core.transition(state, RIGHT).info["turns"] == 1


def test_other_spaces_are_refused():
    with pytest.raises(NotATextEnvError, match="expected an environment whose action_space is"):
        ReplayFork("CartPole-v1")

    class Numbers(Corridor):
        def reset(self, **arguments):
            return 7, {}

    with pytest.raises(NotATextEnvError, match="expected a str as observation, found int"):
        ReplayFork(Numbers).reset(seed=0)
    with pytest.raises(ValueError, match="live: expected an integer >= 1"):
        ReplayFork(Corridor, live=0)
    with pytest.raises(ValueError, match="at least one question"):
        ReplayFork(Corridor, episodes=0)


def test_the_id_replays_an_id():
    env = gymnasium.make(
        "at2po/Replay-v0",
        env="tests.at2po_envs.third_party:third/Corridor-v0",
        env_options={"length": 3},
        episodes=5,
        first_seed=10,
    )
    assert [q.id for q in env.unwrapped.questions] == [f"seed-{n}" for n in range(10, 15)]
    assert 'length": 3' in env.spec.to_json()
    check_env(env.unwrapped, skip_render_check=True)
    check_forkable_env(env)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert play(twin, [RIGHT, LEFT], seed=3) == play(env, [RIGHT, LEFT], seed=3)


def test_raw_text():
    dialect = RawText(("\n", "<end>"))
    assert dialect.command("look\n") == "look" == dialect.command("look<end>")
    assert dialect.parse("</answer>").kind == "none"
    assert dialect.read(["a", "b"]).format_ok
    assert isinstance(Corridor.action_space, Text)


class Odd(Corridor):
    """Returns from a step, or from a reset, what it is made with."""

    def __init__(self, step=None, reset=None):
        super().__init__()
        self.odd_step, self.odd_reset = step, reset

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed) if self.odd_reset is None else self.odd_reset

    def step(self, action):
        return self.odd_step

    def close(self):
        raise OSError("cannot be closed either")


@pytest.mark.parametrize(
    "returned",
    [
        ("a", None, False, False, {}),
        ("a", "much", False, False, {}),
        ("a", math.nan, False, False, {}),
        ("a", math.inf, False, False, {}),
        ("a", 1.0, False, False),
        ("a", 1.0, np.zeros(2), False, {}),
        (None, 1.0, False, False, {}),
        (b"a", 1.0, False, False, {}),
        (),
        None,
        7,
    ],
)
def test_a_step_that_returns_nothing_of_use_ends_its_episode_only(returned):
    env = ReplayFork(Odd, env_options={"step": returned})
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(RIGHT)
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
    assert info["flags"] == ("env_failed",) and info["em"] is False
    assert isinstance(env.reset()[0], str)


@pytest.mark.parametrize("terminated", [False, True])
def test_an_end_may_be_a_truncation_and_a_termination_at_once(terminated):
    env = ReplayFork(Odd, env_options={"step": ("a", 1.0, terminated, True, {})})
    env.reset(seed=0)
    assert env.step(RIGHT)[:4] == ("a\n", 1.0, terminated, True)


@pytest.mark.parametrize("returned", ["a", ("a",), (None, {}), ("a", {}, 1), 7])
def test_a_reset_that_returns_nothing_of_use_is_named(returned):
    env = ReplayFork(Odd, env_options={"reset": returned})
    with pytest.raises(NotATextEnvError, match="expected a"):
        env.reset(seed=0)


def test_an_environment_without_seeds_is_named():
    class Seedless(Corridor):
        def reset(self):
            return "a", {}

    with pytest.raises(NotATextEnvError, match=r"reset\(seed=.*unexpected keyword argument 'seed'"):
        ReplayFork(Seedless).reset(seed=0)


@pytest.mark.parametrize("given", [{}, {"env": ""}, {"env": None}, {"env": 7}])
def test_without_an_environment_it_says_what_to_pass(given):
    with pytest.raises(NotATextEnvError, match="expected env, the Gymnasium id of the environment"):
        gymnasium.make("at2po/Replay-v0", **given)
    with pytest.raises(NotATextEnvError, match="expected env, the Gymnasium id of the environment"):
        gymnasium.make_vec("at2po/Replay-v0", num_envs=2, **given)


class Leaving(Corridor):
    """Ends the process wherever it is told to."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def reset(self, *, seed=None, options=None):
        if self.where == "reset" and seed == 1:
            raise SystemExit(0)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.where == "step":
            raise SystemExit(0)
        return super().step(action)

    def close(self):
        raise SystemExit(0)


def test_an_environment_that_ends_the_process_ends_its_episode_only():
    env = ReplayFork(Leaving, env_options={"where": "step"})
    *_, last = play(env, ["quit\n"], seed=0)
    assert last[3] and last[4]["flags"] == ("env_failed",)
    env.close()
    env = ReplayFork(Leaving, env_options={"where": "reset"})
    with pytest.raises(NotATextEnvError, match=r"reset\(seed=1\) returns a text"):
        env.reset(options={"index": 1})


@pytest.mark.parametrize("told", [KeyboardInterrupt(), SystemExit(128 + signal.SIGTERM)])
def test_an_environment_keeps_no_signal_for_itself(told, monkeypatch):
    env = ReplayFork(Corridor)
    env.reset(seed=0)

    def step(self, action):
        raise told

    monkeypatch.setattr(Corridor, "step", step)
    with pytest.raises(type(told)):
        env.step(RIGHT)
