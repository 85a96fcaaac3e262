from __future__ import annotations

import pytest

from at2po_envs import At2poTags, EMReward, Question
from at2po_envs.scoring.answers import numeric_match
from at2po_envs.tool_env import ToolEnv
from at2po_envs.tools.calculator import CALCULATOR, CalculatorTool
from at2po_envs.tools.functions import FunctionToolError
from at2po_envs.tools.pages import page_tools

HEIGHTS = {"Great Tower": 120, "Old Tower": 45}


def height(tower: str) -> str:
    """Tells how high a tower is."""
    return f"{HEIGHTS[tower]} m"


QUESTIONS = [
    ("How high is the Great Tower?", ["120", "120 m"]),
    ("How much higher is it than the Old Tower?", "75"),
    Question("town", "Where are the towers?", ("Ohio",)),
]
CALL = "<think> a </think> <height> Great Tower </height>"
SUM = "<think> a </think> <calculator> 120 - 45 </calculator>"
FIND = '<think> a </think> <find> {"title": "Towers", "text": "ohio"} </find>'


def answer(text):
    return f"<think> a </think> <answer> \\boxed{{{text}}} </answer>"


def make(**options):
    pages = page_tools({"Towers": "Both are old. They stand in Ohio. People like them."})
    return ToolEnv(QUESTIONS, [height, CalculatorTool(), *pages], render_mode="ansi", **options)


@pytest.fixture
def env():
    return make()


def test_several_tools_in_one_environment(env):
    prompt, info = env.reset(options={"question_id": "1"})
    assert info == {"question_id": "1"}
    for line in ("<height> tower </height>: Tells how high", "<open> title </open>", "<find> {"):
        assert line in prompt
    assert env.step(CALL)[0] == " <result>\n120 m\n</result>"
    assert env.step(SUM)[0] == " <result>\n75\n</result>"
    observation, *_, info = env.step(FIND)
    assert "They stand in Ohio" in observation and info["titles"] == ("Towers",)
    *_, reward, terminated, truncated, info = env.step(answer("75"))
    assert (reward, terminated, truncated, info["tool_calls"]) == (1.0, True, False, 3)
    assert "They stand in Ohio" in env.render()


def test_questions_and_answers(env):
    assert [q.id for q in env.questions] == ["0", "1", "town"]
    assert env.questions[0].golden_answers == ("120", "120 m")
    for text in ("120", "120 m."):
        env.reset(options={"index": 0})
        assert env.step(answer(text))[1] == 1.0


def test_match_reward_and_limit_are_passed_on():
    env = make(match=numeric_match, reward=EMReward(), max_tool_calls=0)
    env.reset(options={"index": 1})
    assert env.step(SUM)[0] == env.core.dialect.limit_notice
    assert env.step("<answer> \\boxed{75.0} </answer>")[1] == 1.0
    env.reset(options={"index": 1})
    assert env.step("no answer")[1] == 0.0


def test_a_tool_that_raises_flags_the_episode(env):
    env.reset(options={"index": 0})
    observation, *_, info = env.step("<height> No Tower </height>")
    assert "The height tool failed" in observation and info["flags"] == ("tool_failed",)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], [height]), ValueError, "at least one question"),
        ((["What?"], [height]), ValueError, "question 0: expected a Question or a pair"),
        (([("a", "b", "c")], [height]), ValueError, "question 0: expected a Question or a pair"),
        ((QUESTIONS, [height, height]), ValueError, "different names, found height, height"),
        ((QUESTIONS, [len]), FunctionToolError, "len"),
        (([QUESTIONS[2]] * 2, [height]), ValueError, "different ids, found one twice"),
    ],
)
def test_bad_parts_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ToolEnv(*arguments)


def test_a_dialect_has_to_know_the_tools():
    with pytest.raises(ValueError, match="for the tools calculator, found one for search"):
        ToolEnv(QUESTIONS, [CalculatorTool()], dialect=At2poTags())
    dialect = At2poTags("brief", (CALCULATOR,))
    env = ToolEnv(QUESTIONS, [CalculatorTool()], dialect=dialect)
    assert env.reset(options={"index": 0})[0] == "Question: How high is the Great Tower?\n"
