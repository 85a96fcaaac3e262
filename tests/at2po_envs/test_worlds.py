"""What holds in every world: settings are checked, and episodes go on alike from any snapshot."""

from __future__ import annotations

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_envs import SearchQAEnv
from at2po_envs.calculator import draw_problems
from at2po_envs.household import draw_questions
from at2po_envs.household.planner import plan
from at2po_envs.miniwiki import MiniWiki, World
from at2po_envs.miniwiki.questions import generate_questions
from at2po_envs.miniwiki.text import WorldPassages
from tests.at2po_envs import test_tool_env as tools

BAD = [
    ("MiniWiki", {"preset": "demo2"}, "a MiniWiki preset, .*, found 'demo2'; did you mean 'demo'"),
    ("MiniWiki", {"hops": 3}, "a setting of MiniWiki, .* found 'hops'; did you mean 'max_hops'"),
    ("MiniWiki", {"passage": 300}, "found 'passage'; did you mean 'passages'"),
    ("MiniWiki", {"passages": 99}, "passages: expected an integer from 100 to 1,000,000, found 99"),
    ("MiniWiki", {"passages": 1_000_001}, "found 1000001"),
    ("MiniWiki", {"passages": 400.0}, "expected an integer from 100 to 1,000,000, found 400.0"),
    ("MiniWiki", {"relations": 7}, "relations: expected an integer from 8 to 15, found 7"),
    ("MiniWiki", {"relations": 16}, "found 16"),
    ("MiniWiki", {"max_hops": 0}, "max_hops: expected an integer from 1 to 4, found 0"),
    ("MiniWiki", {"max_hops": 5}, "found 5"),
    ("MiniWiki", {"phrasings": 5}, "phrasings: expected an integer from 1 to 4, found 5"),
    ("MiniWiki", {"wordings": 3}, "wordings: expected an integer from 1 to 2, found 3"),
    ("MiniWiki", {"sentences": -1}, "sentences: expected an integer from 0 to 9, found -1"),
    ("MiniWiki", {"results": 0}, "results: expected an integer from 1 to 100, found 0"),
    ("MiniWiki", {"namesakes": 0}, "namesakes: expected an integer from 1 to 1,000, found 0"),
    ("MiniWiki", {"questions": 0}, "questions: expected an integer from 1 to 1,000,000, found 0"),
    ("MiniWiki", {"passages": 100, "relations": 8, "max_hops": 1, "wordings": 1, "questions": 400},
     r"expected 400 different questions, found only \d+ in"),
    ("Calculator", {"level": 0}, "level: expected an integer from 1 to 5, found 0"),
    ("Calculator", {"level": 6}, "level: expected an integer from 1 to 5, found 6"),
    ("Calculator", {"level": "3"}, "level: expected an integer from 1 to 5, found '3'"),
    ("Calculator", {"questions": 0}, "questions: expected an integer from 1 to 100,000, found 0"),
    ("Calculator", {"max_tool_calls": 2.5}, "max_tool_calls: expected an integer >= 0, found 2.5"),
    ("Calculator", {"max_tool_calls": "3"}, "max_tool_calls: expected an integer >= 0, found '3'"),
    ("Household", {"preset": "smal"}, "size of a household, .* found 'smal'; did you mean 'small'"),
    ("Household", {"questions": 0}, "questions: expected an integer >= 1, found 0"),
    ("Household", {"max_turns": 0}, "max_turns: expected an integer >= 1, found 0"),
    ("Household", {"max_turns": float("nan")}, "max_turns: expected an integer >= 1, found nan"),
    *((world, {"max_tool_calls": -1}, "max_tool_calls: expected an integer >= 0, found -1")
      for world in ("MiniWiki", "Calculator")),
    *((world, bad, message) for world in ("MiniWiki", "Calculator", "Household")
      for bad, message in (({"split": "dev"}, "the split, one of train, test, found 'dev'"),
                           ({"prompt": "long"}, "found 'long'"),
                           *(({"seed": seed}, "seed: expected an integer, found")
                             for seed in (1.5, float("nan"), float("inf"), "1", True, None)))),
]  # fmt: skip


@pytest.mark.parametrize(("world", "arguments", "message"), BAD)
def test_bad_arguments_are_refused(world, arguments, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(f"at2po/{world}-v0", **{"questions": 3} | arguments)


def test_parts_of_a_miniwiki_refuse_what_is_out_of_range_too():
    with pytest.raises(ValueError, match="passages: expected an integer from 100"):
        World(0, 99)
    world = World(0, 100)
    with pytest.raises(ValueError, match="phrasings: expected"):
        WorldPassages(world, phrasings=0)
    with pytest.raises(ValueError, match="max_hops: expected"):
        generate_questions(world, 10, max_hops=5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda number: draw_problems(1, "train", number(3), number(2)),
        lambda number: draw_questions("small", "train", number(3), number(2)),
        lambda number: MiniWiki(seed=number(3), passages=number(200)).world.names,
    ],
)
def test_numbers_of_numpy_are_those_of_python(draw):
    assert draw(np.int64) == draw(int)


def search(query):
    return f"<think>a</think> <search>{query}</search>"


def answer(text):
    return f"<think> a </think> <answer> \\boxed{{{text}}} </answer>"


def act(command):
    return f"<think> a </think> <act> {command} </act>"


COMMANDS = [
    *("look", "inventory", "go kitchen", "go study", "go bedroom", "go pantry", "open cabinet"),
    *("open drawer", "take mug", "take apple", "take book", "put mug on counter", "clean mug"),
]
# What is done in each world, beside starting again and saying nothing.
MOVES = {
    "Question set": [search("film 17"), search(""), answer("Answer 17"), "\ud800</search>"],
    "Tools": [tools.CALL, tools.SUM, tools.FIND, answer("75"), "<open> x </open>"],
    "MiniWiki": [search("River"), search("the film Old"), search(""), answer("yes")],
    "Calculator": ["<think> a </think> <calculator> 7 * 8 </calculator>", answer("56"),
                   "<calculator> 9**9**9 </calculator>", "<calculator></calculator>"],
    "Household": [*map(act, COMMANDS), "expert", "expert"],
}  # fmt: skip


@pytest.fixture(scope="module", params=MOVES)
def envs(request, films):
    """Name of a world, and two environments of it."""
    options = {"Household": {"max_turns": 12}, "MiniWiki": {"max_tool_calls": 2}}

    def make():
        if request.param == "Question set":
            return SearchQAEnv(**films, max_tool_calls=3)
        if request.param == "Tools":
            return tools.make()
        more = options.get(request.param, {})
        return gymnasium.make(f"at2po/{request.param}-v0", questions=30, **more).unwrapped

    return request.param, make(), make()


def perform(env, moves):
    """Play moves, resetting after the end of an episode, and return all that was observed."""
    seen = []
    for move in moves:
        if move == "reset" or env.state.done:
            seen.append(env.reset())
        if move == "expert":
            seen.append(env.step(act(plan(env.state.world, env.state.goal)[0])))
        elif move != "reset":
            seen.append(env.step(move))
    return seen


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 5))
def test_restores_copies_forks_and_replays_agree(envs, data, seed):
    name, env, other = envs
    moves = st.lists(st.sampled_from([*MOVES[name], "nothing", "reset"]), max_size=8)
    before, after, detour = (data.draw(moves) for _ in range(3))
    env.reset(seed=seed)
    perform(env, before)
    snapshot = env.snapshot()
    assert snapshot.state is env.state
    twins = [env.fork(), copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    expected = perform(env, after)
    assert all(perform(twin, after) == expected for twin in twins)
    for _ in range(2):
        perform(env, detour)
        env.restore(snapshot)
        assert perform(env, after) == expected
    for again in (env, other):
        again.reset(seed=seed)
        perform(again, before)
        assert again.snapshot() == snapshot and perform(again, after) == expected
    other.restore(pickle.loads(pickle.dumps(snapshot)))
    assert perform(other, after) == expected
