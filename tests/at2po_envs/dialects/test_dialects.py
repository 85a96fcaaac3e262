from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from at2po_envs import (
    Action,
    At2poEnvError,
    At2poTags,
    Reading,
    ToolCall,
    ToolQA,
    ToolResult,
    ToolSpec,
)
from at2po_envs.dialects import DIALECTS, SearchR1Tags, ToolCalls, make_dialect
from at2po_envs.errors import UnknownNameError
from at2po_envs.question_sets.questions import Question
from at2po_envs.tools import SEARCH

TAGS = At2poTags()
FIND = ToolSpec(
    "find",
    "Finds a word in a page.",
    {
        "type": "object",
        "properties": {"title": {"type": "string"}, "nth": {"type": "integer", "minimum": 1}},
        "required": ["title", "nth"],
    },
)
BOTH = At2poTags("tools", (SEARCH, FIND))


def search(query):
    return Action("tool", (ToolCall("search", {"query": query}),))


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>a</think> <search> Ada \n</search>", search("Ada")),
        ("<search>Ada</search>\n<answer>x</answer>", search("Ada")),
        ("<search>Ada</search><search>Bob</search>", search("Ada")),
        ("<answer> x </answer><search>Ada</search>", Action("answer")),
        ("<think><search> is a tag</think><search>Ada</search>", search("Ada")),
        ("<answer>a<answer>b</answer>", Action("answer")),
        ("a</answer>", Action("answer")),
        ("<search><answer>x</search>", search("<answer>x")),
        ("<search>\u8bd7\u4eba \ud800</search>", search("\u8bd7\u4eba \ud800")),
        ("", Action("none")),
        ("<search>never closed", Action("none")),
        ("<SEARCH>a</SEARCH>", Action("none")),
        ("<find>a</find>", Action("none")),
    ],
)
def test_the_first_closing_tag_decides(text, action):
    assert TAGS.parse(text) == action


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<search></search>", "the query is empty"),
        ('<search> "" </search>', "the query is empty"),
        ("a</search>", "</search> has no <search> before it"),
        ("<find>Ada</find>", "its arguments are not JSON"),
        ("<find>[1]</find>", "its arguments are not a JSON object"),
        ('<find>{"title": "Ada"}</find>', "'nth' is a required property"),
        ('<find>{"title": "Ada", "nth": "1"}</find>', "'1' is not of type 'integer'"),
        ('<find>{"title": "Ada", "nth": NaN}</find>', "NaN is not JSON"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(text, problem):
    (call,) = BOTH.parse(text).calls
    assert problem in call.problem and "was not called" in call.problem


def test_a_tool_with_several_arguments_takes_json():
    (call,) = BOTH.parse('<find>{"title": "Ada", "nth": 2}</find>').calls
    assert call == ToolCall("find", {"title": "Ada", "nth": 2})


def test_the_papers_prompt_is_the_intended_text():
    prompt = TAGS.prompt(" Who wrote it ")
    assert prompt.startswith("You are a helpful assistant that can solve the given question step")
    assert prompt.endswith("enclosed within \\boxed{} with latex format.\nuser\nWho wrote it?")
    assert "</result>  <think>" in prompt  # two spaces, as the paper's template has them
    assert "\\[ \\boxed{answer here} \\]" in prompt and "\x08" not in prompt
    # Source: AT²PO's released data script: 980 characters with a question of four (the released
    # text has one character less in each of two places where \b became a backspace).
    assert len(TAGS.prompt("abc?")) == 982
    assert TAGS.prompt("Who?").endswith("\nuser\nWho?")


def test_the_other_prompts():
    assert At2poTags("brief").prompt("Who wrote it") == "Question: Who wrote it\n"
    told = BOTH.prompt("Who?")
    assert "<search> query </search>: Searches an encyclopedia" in told
    assert '<find> {"title": "...", "nth": "..."} </find>: Finds a word in a page.' in told
    assert told.endswith("\nQuestion: Who?\n")
    with pytest.raises(At2poEnvError, match="found 'breif'; did you mean 'brief'"):
        At2poTags("breif")
    with pytest.raises(ValueError, match=r"speaks of search alone, found the tools \['search', 'f"):
        At2poTags("paper", (SEARCH, FIND))


def test_results_are_rendered_with_a_leading_space():
    ok, bad = ToolResult(True, "Page 1: x"), ToolResult(False, "", "no luck")
    assert TAGS.render([ok]) == " <result>\nPage 1: x\n</result>"
    assert TAGS.render([bad]) == " <result>\nno luck\n</result>"
    assert TAGS.render([]) == ""


def test_stop_strings_and_limit_notice_are_those_of_the_specification():
    assert TAGS.stop == ("</search>", "</answer>")
    assert BOTH.stop == ("</search>", "</find>", "</answer>")
    assert TAGS.limit_notice == (
        " I have reached the tool call limit and cannot make further tool calls. Let me provide "
        "the final answer based on the information I have gathered so far. \n\n"
    )


def test_the_factory_finds_the_prompt_that_fits():
    assert make_dialect("at2po") == At2poTags("paper")
    assert make_dialect("at2po", tools=(SEARCH, FIND)) == BOTH
    assert make_dialect("at2po", "brief") == At2poTags("brief")
    assert make_dialect("search-r1", "brief") == SearchR1Tags("brief")
    assert make_dialect("tool-calls", tools=[FIND]) == ToolCalls("tools", (FIND,))
    with pytest.raises(At2poEnvError, match="found 'search_r1'; did you mean 'search-r1'"):
        make_dialect("search_r1")
    with pytest.raises(ValueError, match=r"knows search alone, found the tools \['find'\]"):
        make_dialect("search-r1", tools=[FIND])
    for name in DIALECTS:
        with pytest.raises(At2poEnvError, match="found 'breif'; did you mean 'brief'"):
            make_dialect(name, "breif")


@pytest.mark.parametrize("name", DIALECTS)
def test_templates_are_well_formed_turns_that_make_a_well_formed_episode(name):
    dialect = make_dialect(name)
    core = ToolQA(dialect)
    state, _ = core.begin(Question("q", "Who?", ("x",)))
    asking, answering = (template.format("x") for template in dialect.templates)
    assert core.pending_calls(state, asking) == (ToolCall("search", {"query": "x"}),)
    state = core.transition(state, asking, [ToolResult(True, "found")]).state
    step = core.transition(state, answering)
    assert step.terminated and step.info["em"] and step.info["format_ok"]
    assert dialect.read([answering, asking]).format_ok is False


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_are_values(name):
    dialect = make_dialect(name)
    dialect.parse(dialect.templates[0].format("x"))
    assert pickle.loads(pickle.dumps(dialect)) == dialect == make_dialect(name)
    assert hash(dialect) == hash(make_dialect(name))
    assert dialect != make_dialect(name, "brief")


TAGGED = "<think> {} </think> <search> {} </search>"
FINAL = r"<think> {} </think> <answer> {} \boxed{{Paris}} </answer>"
MENTIONS = [
    "<search>",
    "<answer>",
    "<python>",
    "<result>",
    "</result>",
    "<search> <answer>",
]


@pytest.mark.parametrize("mention", MENTIONS)
def test_a_tag_that_a_thought_mentions_breaks_no_format(mention):
    turns = [TAGGED.format(f"I will use {mention} .", "q"), FINAL.format(f"no {mention}", "It is")]
    assert TAGS.parse(turns[0]) == search("q")
    assert TAGS.read(turns) == Reading("Paris", True)
    released = At2poTags(reading="released").read(turns)
    assert released == Reading("Paris", mention.endswith("result>"))


@pytest.mark.parametrize(
    "turns",
    [
        [TAGGED.format("a", "what does </think> mean"), FINAL.format("b", "")],
        [TAGGED.format("a", "what is <answer> for"), FINAL.format("b", "")],
        [TAGGED.format("a", "q"), FINAL.format("b", "Not <search> but")],
        ["<think> I use <search> . So <search> q </search>", "b </think>" + FINAL.format("c", "")],
        ["<think> a <search> q </search>", "b <search> c </think>" + TAGGED.format("c", "d"),
         FINAL.format("e", "")],
    ],
)  # fmt: skip
def test_tags_in_queries_answers_and_long_thoughts_break_no_format(turns):
    assert TAGS.read(turns) == Reading("Paris", True)


@pytest.mark.parametrize(
    "turns",
    [
        ["<think> a <search> q </search>", FINAL.format("b", "")],  # the first thought never ends
        [TAGGED.format("a", "how does <search> work"), FINAL.format("b", "")],
        ["<think> a </think> b </think> <search> q </search>", FINAL.format("c", "")],
        [TAGGED.format("a", "q") + "<search>", FINAL.format("c", "")],
        # As a small model made up a result, and went on from it.
        [TAGGED.format("a", "q"), FINAL.format("987 km.\n</result><think> It is 987.", "")],
    ],
)
def test_tags_outside_thoughts_still_break_it(turns):
    assert not TAGS.read(turns).format_ok


BLOCKS = ["<think>a</think>", "<search>q</search>", "<search>", "</search>", "</answer>",
          "<answer>", r"<answer>\boxed{x}</answer>", "<python>1</python>", "</think>",
          "b"]  # fmt: skip


def mentions(turn):
    """Whether a tag stands in the turn's query or answer."""
    before, *closed = re.split("</(search|answer)>", turn, maxsplit=1)
    return bool(closed) and "<" in before.partition(f"<{closed[0]}>")[2]


@example(["<think>a</think><answer><answer>\\boxed{x}</answer>"])
@given(st.lists(st.lists(st.sampled_from(BLOCKS), max_size=4).map("".join), max_size=4))
def test_without_mentions_the_format_is_judged_as_released(turns):
    ours, released = (
        dialect.read(turns).format_ok for dialect in (TAGS, At2poTags(reading="released"))
    )
    assert ours == released or (ours and any(map(mentions, turns)))


def test_an_unknown_reading_is_refused():
    for make in (At2poTags, SearchR1Tags):
        with pytest.raises(UnknownNameError, match="expected the reading, one of structure"):
            make(reading="relased")
    with pytest.raises(ValueError, match="choose another scorer or dialect"):
        make_dialect("tool-calls", reading="released")
