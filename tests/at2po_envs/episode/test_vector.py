"""The vector environment: what Gymnasium's own would give, with one tool call a step."""

from __future__ import annotations

import pickle
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_envs import SearchQAEnv
from at2po_envs.episode.vector import ForkableVectorEnv
from at2po_envs.errors import EpisodeOverError, InvalidActionError, UnknownNameError
from retrieval import Passage

SEARCH = "<think>a</think> <search>film {}</search>"
ANSWER = r"<think>a</think> <answer>\boxed{{Answer {}}}</answer>"
MOVES = (SEARCH, ANSWER, "nothing", "<search></search>")


class Films:
    """Finds a passage about each query and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def search(self, queries, k):
        self.batches.append(list(queries))
        return [[Passage("1", query, f"It is about {query}.")] for query in queries]


def qa(films, **options) -> SearchQAEnv:
    own = {"retriever": Films(), "max_tool_calls": 2} | options
    return SearchQAEnv(questions_path=films["questions_path"], **own)


def assert_equal(ours, theirs):
    """Compare observations, arrays and infos, with their types and masks."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    elif isinstance(theirs, tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert ours == theirs


@pytest.mark.parametrize("mode", list(AutoresetMode))
@settings(max_examples=15)
@given(seed=st.integers(0, 50), script=st.integers(0, 2**32))
def test_it_gives_what_the_sync_vector_gives(films, mode, seed, script):
    ours = ForkableVectorEnv(qa(films), 3, mode)
    theirs = SyncVectorEnv([lambda: qa(films)] * 3, autoreset_mode=mode)
    assert ours.single_action_space == theirs.single_action_space
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.metadata == theirs.metadata
    assert_equal(ours.reset(seed=seed), theirs.reset(seed=seed))
    assert ours.np_random_seed == theirs.np_random_seed
    rng = np.random.default_rng(script)
    for _ in range(12):
        actions = [MOVES[rng.integers(4)].format(rng.integers(30)) for _ in range(3)]
        step = ours.step(actions)
        assert_equal(step, theirs.step(tuple(actions)))
        ended = step[2] | step[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            resets = [env.reset(options={"reset_mask": ended.copy()}) for env in (ours, theirs)]
            assert_equal(*resets)
    options = {"index": 4}
    assert_equal(ours.reset(seed=[7, None, 7], options=options), theirs.reset(options=options))


def test_all_calls_of_a_step_are_one_batch(films):
    found = Films()
    vector = ForkableVectorEnv(qa(films, retriever=found), 5)
    vector.reset(seed=0)
    vector.step([SEARCH.format(i) for i in range(4)] + ["nothing"])
    assert found.batches == [[f"film {i}" for i in range(4)]]


def test_each_episode_is_saved_and_restored_alone(films):
    vector = ForkableVectorEnv(qa(films), 2, "SameStep")
    vector.reset(seed=3)
    vector.step([SEARCH.format(1), SEARCH.format(2)])
    snapshot = pickle.loads(pickle.dumps(vector.snapshot(0)))
    first = vector.step([ANSWER.format(5), SEARCH.format(2)])
    assert first[2].tolist() == [True, False]
    vector.restore(0, snapshot)
    again = vector.step([ANSWER.format(5), SEARCH.format(3)])
    for key in ("final_obs", "question_id"):
        assert again[4][key][0] == first[4][key][0]
    assert again[0][0] == first[0][0] and again[4]["tool_calls"].tolist() == [0, 2]
    vector.restore(1, snapshot)
    assert vector.envs[1].state == snapshot.state


def test_an_episode_restored_to_its_end_is_reset_next(films):
    vector = ForkableVectorEnv(qa(films), 2)
    vector.reset(seed=0)
    vector.step(["nothing", "nothing"])
    end = vector.snapshot(0)
    vector.step(["x", "x"])
    vector.restore(0, end)
    _, rewards, terminated, _, infos = vector.step(["nothing", "nothing"])
    assert (rewards[0], terminated.tolist()) == (0.0, [False, True])
    assert infos["_action"].tolist() == [False, True]


def test_episodes_start_where_the_environment_stands_and_leave_it_alone(films):
    env = qa(films)
    env.reset(seed=0)
    env.step(SEARCH.format(1))
    before = env.snapshot()
    vector = ForkableVectorEnv(env, 2)
    _, _, _, _, infos = vector.step([SEARCH.format(2), "nothing"])
    assert infos["turns"].tolist() == [2, 2]
    assert env.snapshot() == before
    names = [vector.reset()[1]["question_id"].tolist() for _ in range(8)]
    assert any(first != second for first, second in names)


def test_a_hung_tool_does_not_hold_up_the_others(films):
    release = threading.Event()

    class Clock:
        spec = qa(films).tools["search"].spec
        batched = False

        def __call__(self, arguments):
            if "hang" in arguments[0]["query"]:
                release.wait(60)
            return qa(films).tools["search"](arguments)

    env = qa(films)
    env.tools["search"], env.tool_timeout_s = Clock(), 0.5
    vector = ForkableVectorEnv(env, 3)
    vector.reset(seed=0)
    queries = ("<search>a</search>", "<search>hang</search>", "<search>b</search>")
    observations, *_, infos = vector.step(queries)
    release.set()
    assert "about a" in observations[0] and "about b" in observations[2]
    assert "did not answer within 0.5 s" in observations[1]
    assert infos["flags"].tolist() == [(), ("tool_failed",), ()]


def test_nothing_moves_when_something_is_wrong(films):
    vector = ForkableVectorEnv(qa(films), 2, AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded):
        vector.step(["a", "b"])
    vector.reset(seed=0)
    for actions, found in (
        (["a"], r"found \['a'\]"),
        ("ab", "found 'ab'"),
        (["a", 1], "found int"),
    ):
        with pytest.raises(InvalidActionError, match=found):
            vector.step(actions)
    assert not any(env.state.turns for env in vector.envs)
    vector.step([SEARCH.format(1), "nothing"])
    with pytest.raises(EpisodeOverError, match=r"found that \[1\] have ended"):
        vector.step(["nothing", "nothing"])
    assert len(vector.envs[0].state.turns) == 1
    with pytest.raises(UnknownNameError):
        vector.reset(options={"indx": 1})
    with pytest.raises(ValueError, match="expected 2 seeds, found 1"):
        vector.reset(seed=[1])
    for mask in ([True], [0, 1], [False, False]):
        with pytest.raises(ValueError, match="expected a reset_mask of 2 booleans"):
            vector.reset(options={"reset_mask": np.array(mask)})
    with pytest.raises(ValueError, match="num_envs: expected an integer >= 1"):
        ForkableVectorEnv(qa(films), 0)


def test_render_is_a_transcript_an_episode(films):
    vector = ForkableVectorEnv(qa(films, render_mode="ansi"), 2)
    vector.reset(seed=0)
    vector.step([SEARCH.format(1), "nothing"])
    running, ended = vector.render()
    assert "about film 1" in running and "--- ended" in ended
    assert ForkableVectorEnv(qa(films), 1).render() is None


def test_make_vec_makes_it_from_a_spec_that_is_json(films):
    vector = gymnasium.make_vec("at2po/HotpotQA-v0", num_envs=4, autoreset_mode="SameStep", **films)
    assert isinstance(vector, ForkableVectorEnv) and vector.num_envs == 4
    assert vector.autoreset_mode == AutoresetMode.SAME_STEP
    spec = EnvSpec.from_json(vector.spec.to_json())
    assert pickle.loads(pickle.dumps(spec)) == spec
    again = gymnasium.make_vec(spec)
    assert_equal(again.reset(seed=1), vector.reset(seed=1))
    twin = pickle.loads(pickle.dumps(vector))
    actions = [SEARCH.format("film")] * 4
    assert_equal(twin.step(actions), vector.step(actions))
