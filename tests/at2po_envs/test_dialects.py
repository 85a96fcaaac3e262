from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs import Action, At2poEnvError, At2poTags, ToolResult

TAGS = At2poTags()


@pytest.mark.parametrize(
    ("text", "kind", "content"),
    [
        ("<think>a</think> <search> Ada \n</search>", "search", "Ada"),
        ("<search>Ada</search>\n<answer>x</answer>", "search", "Ada"),
        ("<answer> x </answer><search>Ada</search>", "answer", "x"),
        ('<search>the "Ada" film</search>', "search", "the Ada film"),
        ("<think><search> is a tag</think><search>Ada</search>", "search", "Ada"),
        ("<answer>a<answer>b</answer>", "answer", "a<answer>b"),
        ("<search><answer>x</search>", "search", "<answer>x"),
        ("<search>\u8bd7\u4eba \ud800</search>", "search", "\u8bd7\u4eba \ud800"),
        ("<search>" + "a" * 100_000 + "</search>", "search", "a" * 100_000),
    ],
)
def test_the_first_closing_tag_decides(text, kind, content):
    assert TAGS.parse(text) == Action(kind, content)


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        ("", "none", "neither a search nor an answer"),
        ("<search>never closed", "none", "neither"),
        ("<SEARCH>a</SEARCH>", "none", "neither"),
        ("<search></search>", "search", "query is empty"),
        ('<search> "" </search>', "search", "query is empty"),
        ("a</search>", "search", "no <search> before it"),
        ("a</answer>", "answer", "no <answer> before it"),
    ],
)
def test_what_is_wrong_with_a_turn_is_said(text, kind, problem):
    action = TAGS.parse(text)
    assert (action.kind, action.content) == (kind, "")
    assert problem in action.problem


@given(st.text(alphabet=st.sampled_from("<>/\\{}") | st.characters(), max_size=60))
def test_any_text_is_parsed(text):
    for turn in (text, f"<search>{text}</search>", f"{text}</answer>"):
        assert TAGS.parse(turn).kind in ("search", "answer", "none")


def test_the_papers_prompt_is_the_intended_text():
    prompt = TAGS.prompt(" Who wrote it ")
    assert prompt.startswith("You are a helpful assistant that can solve the given question step")
    assert prompt.endswith("enclosed within \\boxed{} with latex format.\nuser\nWho wrote it?")
    assert "</result>  <think>" in prompt  # two spaces, as the paper's template has them
    assert "\\[ \\boxed{answer here} \\]" in prompt and "\x08" not in prompt
    # Source: algorithms.md section 7.2: 980 characters with a question of four (the released
    # text has one character less in each of two places where \b became a backspace).
    assert len(TAGS.prompt("abc?")) == 982
    assert TAGS.prompt("Who?").endswith("\nuser\nWho?")


def test_the_brief_prompt():
    assert At2poTags("brief").prompt("Who wrote it") == "Question: Who wrote it\n"
    assert At2poTags(prompt="brief") != TAGS == At2poTags()
    assert pickle.loads(pickle.dumps(At2poTags("brief"))) == At2poTags("brief")
    with pytest.raises(At2poEnvError, match="found 'breif'; did you mean 'brief'"):
        At2poTags("breif")


def test_results_are_rendered_with_a_leading_space():
    ok, bad = ToolResult(True, "Page 1: x"), ToolResult(False, "", "no luck")
    assert TAGS.render([ok]) == " <result>\nPage 1: x\n</result>"
    assert TAGS.render([bad]) == " <result>\nno luck\n</result>"
    assert TAGS.render([]) == ""


def test_stop_strings_and_limit_notice_are_those_of_the_specification():
    assert TAGS.stop == ("</search>", "</answer>")
    assert TAGS.limit_notice == (
        " I have reached the tool call limit and cannot make further tool calls. Let me provide "
        "the final answer based on the information I have gathered so far. \n\n"
    )


def test_templates_are_well_formed_turns():
    actions = [TAGS.parse(template.format("x")) for template in TAGS.templates]
    assert {action.kind for action in actions} == {"search", "answer"}
    assert not any(action.problem for action in actions)
