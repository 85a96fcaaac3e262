"""Rewards: terms by name, sums, and what each variant pays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs import (
    EMReward,
    F1Reward,
    FormatReward,
    Judgement,
    PaperReward,
    Question,
    State,
    ToolCost,
    ToolQA,
    ToolResult,
    Turn,
    WeightedSum,
)

BEFORE = State(Question("q", "Capital of France?", ("Paris",)))
FOUND = replace(BEFORE, turns=(Turn("a", "It is PARIS, they say."),))
RIGHT = Judgement("Paris", True, 1.0, True)
WRONG = Judgement("Rome", False, 0.0, True)
SEARCH = "<think>a</think> <search>France</search>"
ANSWER = r"<think>a</think> <answer> \boxed{Paris} </answer>"


@pytest.mark.parametrize(
    ("judgement", "paper", "em", "f1"),
    [
        (None, 0, 0, 0),
        (RIGHT, 1, 1, 1),
        (WRONG, 0, 0, 0),
        (replace(RIGHT, format_ok=False), -1, 1, 1),
        (Judgement(None, False, 0.0, True), -1, 0, 0),
        (Judgement("Paris now", False, 0.5, True), 0, 0, 0.5),
        (Judgement("the", True, 0.0, True), 0, 1, 0),
    ],
)
def test_what_the_plain_rewards_pay(judgement, paper, em, f1):
    assert PaperReward()(BEFORE, BEFORE, judgement) == {"paper": paper}
    assert EMReward()(BEFORE, BEFORE, judgement) == {"em": em}
    assert F1Reward()(BEFORE, BEFORE, judgement) == {"f1": f1}


@pytest.mark.parametrize(
    ("after", "judgement", "total"),
    [
        (BEFORE, None, 0.0),
        (BEFORE, RIGHT, 1.0),
        (BEFORE, replace(RIGHT, format_ok=False), 0.8),
        (BEFORE, WRONG, 0.2),
        (FOUND, WRONG, 0.3),
        (BEFORE, replace(WRONG, format_ok=False), 0.1),
        (BEFORE, Judgement(None, False, 0.0, False), 0.0),
    ],
)
def test_the_format_reward(after, judgement, total):
    terms = FormatReward(retrieval=0.1)(BEFORE, after, judgement)
    assert set(terms) == {"em", "structure", "retrieval", "final"}
    assert sum(terms.values()) == pytest.approx(total)


def test_terms_show_in_info_and_add_up_over_the_episode():
    core = ToolQA(reward=WeightedSum(((1.0, PaperReward()), (2.0, ToolCost(0.05)))))
    state, _ = core.begin(BEFORE.question)
    searched = core.transition(state, SEARCH, [ToolResult(True, "x")])
    assert (searched.info["reward_tool_cost"], searched.info["reward_paper"]) == (-0.1, 0.0)
    ended = core.transition(searched.state, ANSWER)
    assert (ended.reward, ended.info["reward_paper"], ended.info["reward_tool_cost"]) == (1, 1, 0)
    assert ended.state.total_reward == pytest.approx(searched.reward + ended.reward)


def test_two_terms_of_one_name_are_refused():
    twice = WeightedSum(((1.0, EMReward()), (0.5, EMReward())))
    with pytest.raises(
        ValueError, match="expected reward terms of different names, found 'em' twice"
    ):
        twice(BEFORE, BEFORE, RIGHT)


@given(st.floats(-5, 5), st.floats(-5, 5), st.booleans(), st.floats(0, 1))
def test_a_weighted_sum_is_linear(a, b, right, f1):
    judgement = Judgement("x", right, f1, True)
    terms = WeightedSum(((a, EMReward()), (b, F1Reward())))(BEFORE, BEFORE, judgement)
    assert sum(terms.values()) == pytest.approx(a * right + b * f1)
