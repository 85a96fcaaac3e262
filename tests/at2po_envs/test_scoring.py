from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs.core import State
from at2po_envs.dialects import extract_boxed
from at2po_envs.questions import Question
from at2po_envs.rewards import PaperReward
from at2po_envs.scoring import (
    cover_exact_match,
    exact_match,
    f1_score,
    judge,
    normalize_answer,
    numeric_match,
)

THINK = "<think>a</think>"


def reward(judgement):
    state = State(Question("q", "Capital of France?", ("Paris",)))
    return PaperReward()(state, state, judgement)["paper"]


def answer(text: str) -> str:
    return f"<answer>It is \\[ {text} \\]</answer>"


SEARCH = f"{THINK} <search>capital</search>"
RIGHT = THINK + answer(r"\boxed{Paris}")

# name, turns of the agent, golden answer, reward, em. Source: algorithms.md section 2.4.
VECTORS = [
    ("right", [RIGHT], "Paris", 1, True),
    ("article and punctuation", [THINK + answer(r"\boxed{the Paris!}")], "Paris", 1, True),
    ("text macro", [THINK + answer(r"\boxed{\text{Paris}}")], "Paris", 0, False),
    ("one word too many", [THINK + answer(r"\boxed{Paris France}")], "Paris", 0, False),
    ("no think", [answer(r"\boxed{Paris}")], "Paris", -1, True),
    ("no box", [THINK + answer("Paris")], "Paris", -1, False),
    ("space before the brace", [THINK + answer(r"\boxed {Paris}")], "Paris", -1, True),
    (
        "literal <search> in a thought",
        ["<think>maybe <search> it</think>" + answer(r"\boxed{Paris}")],
        "Paris",
        -1,
        True,
    ),
    ("two boxes", [THINK + answer(r"\boxed{Rome} \boxed{Paris}")], "Paris", 1, True),
    ("both sides normalise to nothing", [THINK + answer(r"\boxed{the}")], "The", 0, True),
    # Deliberate deviation (section 9 item 5; released: -1): the eighth turn follows the notice.
    ("right after the limit notice", [SEARCH] * 7 + [RIGHT], "Paris", 1, True),
]


@pytest.mark.parametrize(("name", "turns", "gold", "wanted", "em"), VECTORS)
def test_vectors_of_the_specification(name, turns, gold, wanted, em):
    judgement = judge(turns, [gold])
    assert (reward(judgement), judgement.em) == (wanted, em)


def test_retrieved_tags_do_not_count():
    # Deliberate deviation (section 9 item 4; released: -1), held with real passages in
    # test_core.py: the judge is never handed anything but the agent's own turns.
    assert reward(judge([SEARCH, RIGHT], ["Paris"])) == 1


@pytest.mark.parametrize(
    "turns",
    [
        [THINK + "<think>" + answer(r"\boxed{Paris}")],
        [THINK + answer(r"\boxed{Paris}") + "<answer>"],
        [THINK + answer(r"\boxed{Paris}") + "</answer>"],
        [SEARCH + RIGHT],  # a search in the last turn is never answered
        [THINK + "<search>a</search><search>b</search>", RIGHT],  # one answer for two searches
        [THINK + "<search>a", RIGHT],
        [THINK + "</search><search>a", RIGHT],
        [THINK + "<python>1</python><search>a</search>", RIGHT],
        [THINK + r"</answer><answer>\boxed{Paris}"],
        [THINK + answer(r"\boxed{Paris")],
        [THINK],
        [""],
        [],
    ],
)
def test_a_broken_format_costs_one(turns):
    judgement = judge(turns, ["Paris"])
    assert reward(judgement) == -1
    assert not judgement.format_ok or judgement.answer is None


def test_an_answer_behind_a_search_of_the_same_turn_is_not_an_answer():
    judgement = judge([SEARCH + RIGHT], ["Paris"])
    assert (judgement.answer, judgement.em, judgement.format_ok) == (None, False, False)


def test_think_tags_are_counted_over_all_turns():
    turns = ["<think>a <search>q</search>", "b</think>" + answer(r"\boxed{Paris}")]
    assert reward(judge(turns, ["Paris"])) == 1


@pytest.mark.parametrize("gold", ["0.5", "1/2", ".50", "50e-2"])
def test_numbers_match_exactly_whatever_their_form(gold):
    assert numeric_match("1/2", [gold]) == (gold != "50e-2")
    assert numeric_match("$1,200", ["1200"]) and numeric_match("12 %", ["12.0"])
    assert not numeric_match("0.3333", ["1/3"])
    assert not any(numeric_match(text, ["1"]) for text in ("", "1/0", "one", "1 1", "1,2", "١"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{a}", "a"),
        (r"\boxed{a{b}c} tail", "a{b}c"),
        (r"\boxed{a} \boxed{b}", "b"),
        (r"\boxed{}", ""),
        (r"\boxed{a", None),
        (r"\boxed{a} \boxed{b", None),
        ("nothing", None),
        (r"\boxed x$ y", "x"),
        (r"\boxed x \boxed y", "y"),
        (r"\boxed{a} \boxed b", "b"),
    ],
)
def test_boxed(text, expected):
    assert extract_boxed(text) == expected


def test_normalisation_deletes_punctuation_before_it_looks_for_articles():
    assert normalize_answer("  The U.S.A.,  a\tland ") == "usa land"
    assert normalize_answer("a.n") == ""  # "an" once the dot is gone
    assert normalize_answer("Theatre «Là»") == "theatre «là»"


def test_f1():
    assert f1_score("Paris France", ["Rome", "Paris"]) == pytest.approx(2 / 3)
    assert f1_score("yes it is", ["yes"]) == 0
    assert f1_score("yes", ["Yes!"]) == 1
    assert f1_score("no", ["no way"]) == 0
    assert f1_score("Paris", []) == 0
    assert f1_score("the", ["The"]) == 0


def test_cover_match_looks_for_characters_as_flashrag_does():
    assert cover_exact_match("It is the Paris of France.", ["Rome", "Paris!"])
    assert cover_exact_match("George III", ["George II"])
    assert not cover_exact_match("Paris", ["Paris France"])
    assert not cover_exact_match("Paris", [])


@given(st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3))
def test_an_exact_match_is_a_cover_match(prediction, golds):
    assert cover_exact_match(prediction, golds) >= exact_match(prediction, golds)


@given(st.lists(st.text(alphabet=st.characters(), max_size=40), max_size=3), st.text(max_size=5))
def test_any_text_is_judged(turns, gold):
    judgement = judge(turns, [gold])
    assert reward(judgement) in (-1, 0, 1)
    assert 0 <= judgement.f1 <= 1
    assert reward(judgement) < 1 or judgement.em


def test_recorded_rollouts_have_the_scores_that_were_recorded(at2po_data):
    files = sorted((at2po_data / "trajectories").glob("*.jsonl"))
    assert files
    for file in files:
        for text in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(text)
            said, golds = row["pred"], row["golden_answers"]
            scores = exact_match(said, golds), f1_score(said, golds), cover_exact_match(said, golds)
            assert scores == (row["em"], pytest.approx(row["f1"]), row["acc"]), row["id"]
