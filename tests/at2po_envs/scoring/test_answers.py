from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs.dialects import At2poTags, extract_boxed, released_boxed
from at2po_envs.episode.rewards import PaperReward
from at2po_envs.episode.state import State
from at2po_envs.errors import UnknownNameError
from at2po_envs.question_sets.questions import Question
from at2po_envs.scoring.answers import (
    OURS,
    SCORERS,
    cover_exact_match,
    exact_match,
    f1_score,
    judge,
    make_scorer,
    normalize_answer,
    numeric_match,
    squad_normalize_answer,
)

THINK = "<think>a</think>"


def reward(judgement):
    state = State(Question("q", "Capital of France?", ("Paris",)))
    return PaperReward()(state, state, judgement)["paper"]


def answer(text: str) -> str:
    return f"<answer>It is \\[ {text} \\]</answer>"


SEARCH = f"{THINK} <search>capital</search>"
RIGHT = THINK + answer(r"\boxed{Paris}")

MENTION = r"<think>maybe <search> it</think>"

# name, turns of the agent, golden answer, reward and EM by our scorer, and as released (where a
# right answer after the limit notice is worth -1, which the tool limit decides and no scorer).
# Source: the released reward deep_research_em, run on these texts.
VECTORS = [
    ("right", [RIGHT], "Paris", (1, True), (1, True)),
    ("signs", [THINK + answer(r"\boxed{the Paris!}")], "Paris", (1, True), (1, True)),
    ("text macro", [THINK + answer(r"\boxed{\text{Paris}}")], "Paris", (1, True), (0, False)),
    ("a word too many", [THINK + answer(r"\boxed{Paris France}")], "Paris", (0, False), (0, False)),
    ("no think", [answer(r"\boxed{Paris}")], "Paris", (-1, True), (-1, True)),
    ("no box", [THINK + answer("Paris")], "Paris", (-1, False), (-1, False)),
    ("space in the box", [THINK + answer(r"\boxed {Paris}")], "Paris", (-1, True), (-1, True)),
    ("mention", [MENTION + answer(r"\boxed{Paris}")], "Paris", (1, True), (-1, True)),
    ("two boxes", [THINK + answer(r"\boxed{Rome} \boxed{Paris}")], "Paris", (1, True), (1, True)),
    ("articles", [THINK + answer(r"\boxed{the}")], "The", (1, True), (0, True)),
    ("after the limit notice", [SEARCH] * 7 + [RIGHT], "Paris", (1, True), (1, True)),
]


@pytest.mark.parametrize(("name", "turns", "gold", "ours", "released"), VECTORS)
def test_vectors_of_the_specification(name, turns, gold, ours, released):
    judgement = judge(turns, [gold])
    assert (reward(judgement), judgement.em) == ours
    theirs = judge(turns, [gold], At2poTags(reading="released"), scorer=SCORERS["released"])
    assert (reward(theirs), theirs.em) == released


@pytest.mark.parametrize(
    ("gold", "said", "em"),
    [
        ("A", r"\boxed{}", False),
        ("A", r"\boxed{?}", False),
        ("A", r"\boxed{ }", False),
        ("A", r"\boxed{\text{}}", False),
        ("A", r"\boxed{A}", True),
        ("The", r"\boxed{}", False),
        ("The", r"\boxed{the}", True),
        ("The", r"\boxed{A}", False),
        ("The The", r"\boxed{The The.}", True),
        ("The Who", r"\boxed{Who}", True),
        ("", r"\boxed{}", False),
        ("!!!", r"\boxed{!!!}", True),
        ("!!!", r"\boxed{???}", False),
        ("C++", r"\boxed{C}", True),
        ("Paris", r"\boxed{\textbf{Paris}}", True),
        ("Paris", r"\boxed{\mathrm{Paris}}", True),
        ("Paris", r"\boxed{{\bf Paris}}", True),
        ("Paris", r"\boxed{$\text {Paris}$}", True),
        ("New York", r"\boxed{\text{New}~\textit{York}}", True),
        ("New York", r"\boxed{\text{New}\ \text{\emph{York}}}", True),
        ("50%", r"\boxed{50\%}", True),
        ("text", r"\boxed{text}", True),
        ("Caf\u00e9", "\\boxed{Cafe\u0301}", True),
        ("Cafe\u0301", "\\boxed{caf\u00e9}", True),
        ("a\u0300 la carte", "\\boxed{\u00e0 la carte}", True),
    ],
)
def test_what_is_right(gold, said, em):
    judgement = judge([THINK + f"<answer>{said}</answer>"], [gold])
    assert (judgement.em, judgement.f1, reward(judgement)) == (em, float(em), int(em))


@pytest.mark.parametrize("name", ["flashrag", "released"])
def test_published_scorers_let_empty_texts_agree_and_compare_bytes(name):
    scorer = make_scorer(name)
    assert scorer.exact_match("", ["The"]) and scorer.f1_score("", ["The"]) == 0
    assert scorer.cover_exact_match("Rome", ["A"])
    assert not scorer.exact_match("cafe\u0301", ["caf\u00e9"])
    assert not scorer.exact_match(r"\text{Paris}", ["Paris"])
    assert squad_normalize_answer(r"\text{Paris}") == "textparis"
    with pytest.raises(UnknownNameError, match="did you mean 'flashrag'"):
        make_scorer("flashrags")


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
    ("text", "ours", "released"),
    [
        (r"\boxed{a}", "a", "a"),
        (r"\boxed{a{b}c} tail", "a{b}c", "a{b}c"),
        (r"\boxed{a} \boxed{b}", "b", "b"),
        (r"\boxed{}", "", ""),
        (r"\boxed{a", None, None),
        (r"\boxed{a} \boxed{b", None, None),
        ("nothing", None, None),
        (r"\boxed x$ y", "x", "x"),
        (r"\boxed x \boxed y", "y", "y"),
        (r"\boxed{a} \boxed b", "b", "b"),
        (r"\boxed {a}, of course", "a", "{a}, of course"),
        ("\\boxed\n{a}", "a", None),
        (r"\boxed{a} \boxed", "a", None),
        (r"\boxed{a} \boxed ", "a", ""),
        (r"\[ \boxed{a} \boxed \]", "a", r"\]"),
        (r"\boxed{a} \boxed$ x", "a", None),
        (r"\boxed{a} \boxedx", "a", None),
        (r"\boxed{\boxed{a}}", "a", "a"),
    ],
)
def test_boxed(text, ours, released):
    assert (extract_boxed(text), released_boxed(text)) == (ours, released)


@given(
    st.lists(st.sampled_from([r"\boxed", "{", "}", " ", "$", "a", "]"]), max_size=9).map("".join)
)
def test_a_box_without_white_space_or_leftovers_is_read_as_released(text):
    if r"\boxed{" in text and text.count(r"\boxed") == 1:
        assert extract_boxed(text) == released_boxed(text)


@pytest.mark.parametrize("piece", [r"\boxed ", r"\boxed{", r"\boxed{}", r"\text {", r"\frac{"])
def test_boxes_of_any_number_are_read_in_one_pass(piece):
    extract_boxed(piece * 200_000)  # would take hours, were all behind each box looked at
    normalize_answer(piece * 200_000)


def test_normalisation_deletes_punctuation_before_it_looks_for_articles():
    assert normalize_answer("  The U.S.A.,  a\tland ") == "usa land"
    assert normalize_answer("a.n") == "an"  # an article once the dot is gone, and the only word
    assert normalize_answer("a.n b") == "b"
    assert normalize_answer("Theatre «Là»") == "theatre «là»"


def test_f1():
    assert f1_score("Paris France", ["Rome", "Paris"]) == pytest.approx(2 / 3)
    assert f1_score("yes it is", ["yes"]) == 0
    assert f1_score("yes", ["Yes!"]) == 1
    assert f1_score("no", ["no way"]) == 0
    assert f1_score("Paris", []) == 0
    assert f1_score("the", ["The"]) == 1


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


SIGNS = st.sampled_from(
    [
        "a",
        "The ",
        "an ",
        "?",
        " ",
        "\\text{",
        "}",
        "yes",
        "no",
        "1",
        "/2",
        "e\u0301",
        "\u00e9",
        "\ud800",
    ]
)
TEXTS = st.lists(SIGNS, max_size=4).map("".join) | st.text(st.characters(), max_size=6)


@given(TEXTS, st.lists(TEXTS, max_size=3), st.sampled_from([None, numeric_match]))
def test_f1_is_at_least_em_and_an_empty_answer_never_right(said, golds, match):
    turn = f"<answer>\\boxed{{{said}}}</answer>"
    judgement = judge([turn], golds, match=match)
    assert judgement.f1 >= judgement.em
    assert normalize_answer(said) or not exact_match(said, [*golds, "", "?"])
    assert bool(normalize_answer(said)) == bool(said.strip())


@given(TEXTS)
def test_a_golden_answer_that_is_not_blank_can_be_given(gold):
    assert exact_match(gold, [gold]) == bool(gold.strip())


@given(st.text(st.characters(), max_size=9), st.text(st.characters(), max_size=9))
def test_the_form_of_unicode_does_not_matter(said, gold):
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, said)
        assert f1_score(other, [gold]) == f1_score(said, [gold])


def test_recorded_rollouts_have_the_scores_that_were_recorded(at2po_data):
    files = sorted((at2po_data / "trajectories").glob("*.jsonl"))
    published, count = SCORERS["flashrag"], 0
    for file in files:
        for text in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(text)
            said, golds = row["pred"], row["golden_answers"]
            recorded = (row["em"], pytest.approx(row["f1"]), row["acc"])
            for scorer in (published, OURS):  # none of them is of the kind that we score otherwise
                scores = (
                    scorer.exact_match(said, golds),
                    scorer.f1_score(said, golds),
                    scorer.cover_exact_match(said, golds),
                )
                assert scores == recorded, row["id"]
            count += 1
    assert count == 2573


@pytest.mark.parametrize("text", ["1.5/2", r"\frac{1.5}{2}", "1.5 / 2", "0.75", "75./100"])
def test_a_fraction_of_decimals_is_a_number(text):
    assert numeric_match(text, ["3/4"]) and numeric_match("0.75", [text])
    assert not numeric_match(text, ["1.5/0"]) and not numeric_match("1.5/0", [text])
