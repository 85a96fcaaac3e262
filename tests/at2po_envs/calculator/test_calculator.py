from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest

from at2po_envs import Question
from at2po_envs.calculator import CalculatorEnv, StepByStepAgent, draw_problems
from at2po_envs.calculator.problems import solution_of
from at2po_envs.calculator.stories import DISTRACTORS, NAMES
from at2po_envs.scoring.answers import numeric_match
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


def test_another_dialect():
    env = CalculatorEnv(questions=2, dialect="tool-calls")
    env.reset(seed=0)
    call = '<tool_call>{"name": "calculator", "arguments": {"expression": "7 * 8"}}</tool_call>'
    assert "56" in env.step(call)[0]


@pytest.mark.parametrize("form", ["{}", "${}", " {} ", "{}.0", "{}/1", "+{}"])
def test_answers_are_compared_as_numbers(form):
    env = CalculatorEnv(questions=20)
    index = next(i for i, q in enumerate(env.questions) if q.golden_answers[0].isdecimal())
    (golden,) = env.questions[index].golden_answers
    for number, right in ((golden, 1.0), (f"1{golden}", 0.0)):
        env.reset(options={"index": index})
        said = f"<think> a </think> <answer> \\boxed{{{form.format(number)}}} </answer>"
        _, reward, _, _, info = env.step(said)
        assert (reward, info["em"]) == (right, bool(right))
