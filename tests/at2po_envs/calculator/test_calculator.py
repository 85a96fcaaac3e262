from __future__ import annotations

import copy
import pickle
import re
import warnings
from fractions import Fraction

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_envs import Question
from at2po_envs.calculator import CalculatorEnv, StepByStepAgent, draw_problems
from at2po_envs.calculator.problems import solution_of
from at2po_envs.calculator.stories import DISTRACTORS, NAMES
from at2po_envs.scoring.answers import numeric_match
from tests.at2po_envs.fork_checks import check_restores_forks_and_replays, perform
from tests.at2po_envs.playing import play

# -- the problems ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_expert_solves_every_problem_with_the_tool(level, split):
    env = CalculatorEnv(level, split, seed=level, questions=60)
    taken = play(env, env.expert())
    for question, transition in zip(env.questions, taken, strict=True):
        assert transition.reward == 1.0, question
        assert transition.state.tool_calls == question.metadata["operations"] <= level + 1
        assert transition.info["format_ok"]
    counts = {question.metadata["operations"] for question in env.questions}
    assert counts == set(range(2, level + 2))


@pytest.mark.parametrize("level", [1, 3, 5])
def test_problems_are_sound(level):
    questions = draw_problems(level, "train", 7, 300)
    assert len({q.question for q in questions}) == len({q.id for q in questions}) == 300
    for question in questions:
        text, (golden,) = question.question, question.golden_answers
        assert not set("{}#") & set(text) and text.endswith("?") and "  " not in text
        assert re.fullmatch(r"\d+(\.\d{1,3})?", golden) and Fraction(golden) > 0
        assert numeric_match(golden, (golden,))
        # Every number of the solution is one of the text.
        told = set(re.findall(r"\d+(?:\.\d+)?", text))
        for step in solution_of(question):
            first, _, second = step.expression.split()
            assert {n.rstrip("%") for n in (first, second) if not n.startswith("#")} <= told


def test_counts_of_things_stay_whole():
    for question in draw_problems(5, "train", 3, 200):
        if "dollar" not in question.question:
            assert question.golden_answers[0].isdecimal(), question


def distracted(question):
    ways = (re.escape(d).replace(r"\{who\}", ".*").replace(r"\{n\}", r"\d+") for d in DISTRACTORS)
    return re.search("|".join(ways), question.question) is not None


def test_distractors_come_at_higher_levels():
    shares = [
        np.mean([distracted(question) for question in draw_problems(level, "train", 0, 100)])
        for level in (1, 2, 3, 4, 5)
    ]
    assert shares[:2] == [0, 0] and shares[4] == 1
    assert 0.3 < shares[2] < 0.7 and 0.3 < shares[3] < 0.7


def test_train_and_test_share_no_problem_and_no_name():
    names = re.compile(rf"\b({'|'.join(NAMES['train'] + NAMES['test'])})\b")
    told, people = [], []
    for split in ("train", "test"):
        texts = [question.question for question in draw_problems(2, split, 1, 1500)]
        told.append({names.sub("X", text) for text in texts})
        people.append({name for text in texts for name in names.findall(text)})
    # The same events with the same numbers are on one side only, whatever the names.
    assert not told[0] & told[1]
    assert people[0] == set(NAMES["train"]) and people[1] == set(NAMES["test"])
    assert not people[0] & people[1]


def test_equal_arguments_give_equal_problems():
    assert draw_problems(3, "train", 5, 50) == draw_problems(3, "train", 5, 50)
    assert draw_problems(3, "train", 5, 50) == draw_problems(3, "train", 5, 80)[:50]
    assert draw_problems(3, "train", 5, 50) != draw_problems(3, "train", 6, 50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 0}, "level: expected an integer from 1 to 5, found 0"),
        ({"level": 6}, "level: expected an integer from 1 to 5, found 6"),
        ({"level": "3"}, "level: expected an integer from 1 to 5, found '3'"),
        ({"split": "dev"}, "split: expected 'train' or 'test', found 'dev'"),
        ({"questions": 0}, "questions: expected an integer from 1 to 100,000, found 0"),
        ({"max_tool_calls": -1}, "expected max_tool_calls >= 0, found -1"),
        ({"max_tool_calls": 2.5}, "expected max_tool_calls >= 0, found 2.5; pass a whole number"),
        ({"max_tool_calls": "3"}, "expected max_tool_calls >= 0, found '3'"),
        ({"prompt": "long"}, "found 'long'"),
        ({"render_mode": "human"}, "found 'human'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CalculatorEnv(**{"questions": 5} | arguments)


# -- the expert -----------------------------------------------------------------------------------


def test_errors_cost_answers_and_are_the_same_each_time():
    env = CalculatorEnv(3, questions=100)
    rates = [
        np.mean([t.info["em"] for t in play(env, env.expert(error_rate=rate))])
        for rate in (0.0, 0.2, 1.0)
    ]
    assert rates[0] == 1 > rates[1] > 0.2 > rates[2]
    first, again = (play(env, env.expert(error_rate=0.3, seed=4)) for _ in range(2))
    assert first == again
    assert first != play(env, env.expert(error_rate=0.3, seed=5))


@pytest.mark.parametrize("limit", [0, 1])
def test_the_expert_keeps_to_the_limit(limit):
    env = CalculatorEnv(4, questions=20, max_tool_calls=limit)
    for taken in play(env, env.expert()):
        assert taken.reward == 1.0 and taken.state.tool_calls == limit


def test_the_expert_refuses_what_it_does_not_know():
    env = CalculatorEnv(questions=3)
    with pytest.raises(ValueError, match="one of 3 known problems, found 'What"):
        env.expert().act([["What is it?"]])
    with pytest.raises(ValueError, match="error_rate: expected a number in"):
        StepByStepAgent(env.questions, env.core, error_rate=1.5)
    with pytest.raises(ValueError, match="expected a problem of Calculator"):
        solution_of(Question("a", "b", ("c",)))


# -- the environment ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env():
    return CalculatorEnv(3, questions=20, max_tool_calls=3, render_mode="ansi")


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked = CalculatorEnv(questions=20, render_mode="ansi")
        check_env(checked, skip_render_check=True)


def test_another_dialect():
    env = CalculatorEnv(questions=2, dialect="tool-calls")
    env.reset(seed=0)
    call = '<tool_call>{"name": "calculator", "arguments": {"expression": "7 * 8"}}</tool_call>'
    assert "56" in env.step(call)[0]


def test_it_is_registered():
    env = gymnasium.make("at2po_envs:at2po/Calculator-v0", questions=5, split="test", level=1)
    prompt, info = env.reset(seed=0)
    assert "<calculator> expression </calculator>" in prompt
    assert info["question_id"].startswith("calculator_test_1_0_")


@pytest.mark.parametrize("form", ["{}", "${}", " {} ", "{}.0", "{}/1", "+{}"])
def test_answers_are_compared_as_numbers(env, form):
    index = next(i for i, q in enumerate(env.questions) if q.golden_answers[0].isdecimal())
    (golden,) = env.questions[index].golden_answers
    for number, right in ((golden, 1.0), (f"1{golden}", 0.0)):
        env.reset(options={"index": index})
        said = f"<think> a </think> <answer> \\boxed{{{form.format(number)}}} </answer>"
        _, reward, _, _, info = env.step(said)
        assert (reward, info["em"]) == (right, bool(right))


moves = st.lists(
    st.sampled_from(
        [
            "<think> a </think> <calculator> 7 * 8 </calculator>",
            "<calculator> 9**9**9 </calculator>",
            "<calculator></calculator>",
            "<think> a </think> <answer> \\boxed{56} </answer>",
            "nothing",
            "reset",
        ]
    ),
    max_size=7,
)


@settings(max_examples=40)
@given(seed=st.integers(0, 5), before=moves, after=moves, detour=moves)
def test_restores_forks_and_replays_agree(env, seed, before, after, detour):
    snapshot, expected = check_restores_forks_and_replays(env, seed, before, after, detour)
    env.restore(snapshot)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert perform(twin, after) == expected


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_bytes_never_raise(env, count):
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for i in range(count):
        noise = rng.bytes(int(rng.integers(0, 60)))
        text = noise.decode("latin-1" if i % 2 else "utf-8", errors="surrogateescape")
        if i % 3:
            text = f"<calculator>{text}</calculator>"
        observation, reward, terminated, truncated, info = env.step(text)
        assert isinstance(observation, str) and reward in (-1.0, 0.0) and not truncated
        assert not info["flags"]
        if terminated:
            env.reset()


@pytest.mark.parametrize("seed", [1.5, float("nan"), float("inf"), "1", True, None])
def test_a_seed_that_is_no_integer_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed: expected an integer"):
        draw_problems(1, "train", seed, 2)  # type: ignore[arg-type]


def test_a_seed_and_a_number_of_numpy_are_those_of_python() -> None:
    seed = np.int64(3)
    drawn = draw_problems(1, "train", seed, np.int64(2))
    seed = 3
    assert drawn == draw_problems(1, "train", seed, 2)
