from __future__ import annotations

import json

import pytest

from at2po_envs import Action, Reading, ToolCall, ToolQA, ToolResult, ToolSpec
from at2po_envs.dialects import ToolCalls
from at2po_envs.question_sets.questions import Question
from at2po_envs.tools import SEARCH

OPEN = ToolSpec(
    "open",
    "Opens a page.",
    {
        "type": "object",
        "properties": {"title": {"type": "string"}, "page": {"type": "integer", "minimum": 1}},
        "required": ["title"],
        "additionalProperties": False,
    },
)
CALLS = ToolCalls(tools=(SEARCH, OPEN))


def write(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_the_prompt_carries_messages_and_schemas():
    prompt = CALLS.prompt("Who?")
    system, user = prompt.messages
    assert (system["role"], user) == ("system", {"role": "user", "content": "Who?"})
    assert "inside <answer> </answer>" in system["content"]
    assert [tool["type"] for tool in prompt.tools] == ["function", "function"]
    assert prompt.tools[1]["function"] == {
        "name": "open",
        "description": "Opens a page.",
        "parameters": OPEN.parameters,
    }
    assert json.loads(json.dumps(prompt.tools))[0]["function"]["name"] == "search"
    assert prompt == (
        "Tool search: Searches an encyclopedia and returns the passages that fit a query best.\n"
        f"Tool open: Opens a page.\n{system['content']}\nWho?\n"
    )
    assert ToolCalls("brief").prompt("Who?").messages == ({"role": "user", "content": "Who?"},)
    assert CALLS.stop == ()


def test_results_become_tool_messages():
    shown = CALLS.render([ToolResult(True, "one"), ToolResult(False, "", "no luck")])
    assert shown == "one\nno luck" and shown.tools == ()
    assert shown.messages == (
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "no luck"},
    )
    assert CALLS.limit_notice.messages == ({"role": "tool", "content": str(CALLS.limit_notice)},)
    with pytest.raises(ValueError, match="expected at least one tool, found none"):
        ToolCalls(tools=())


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (
            f"<think>\na\n</think>\n\n{write('search', query='Ada')}\n{write('open', title='B')}",
            Action(
                "tool",
                (ToolCall("search", {"query": "Ada"}), ToolCall("open", {"title": "B"})),
            ),
        ),
        (f"a</think>{write('open', title='B', page=2)} and {{}}",
         Action("tool", (ToolCall("open", {"title": "B", "page": 2}),))),
        (f"{write('search', query='Ada')}<answer>x</answer>",
         Action("tool", (ToolCall("search", {"query": "Ada"}),))),
        (f"<think>{write('search', query='Ada')}</think><answer>x</answer>", Action("answer")),
        ("The answer is Ada.", Action("answer")),
        ("<think>\nAda\n</think>\n", Action("none")),
        (f"<think>{write('search', query='Ada')}", Action("none")),
        (" \n", Action("none")),
        ("", Action("none")),
    ],
)  # fmt: skip
def test_a_turn_is_thinking_then_calls_or_an_answer(text, action):
    assert CALLS.parse(text) == action


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<tool_call>{"name": "search"', "<tool_call> is never closed"),
        ("<tool_call>Ada</tool_call>", "what stands in <tool_call> is not JSON: Expecting value"),
        ("<tool_call></tool_call>", "is not JSON"),
        ("<tool_call>Ada <tool_call>", "<tool_call> is never closed"),
        (write("search", query="a").removesuffix("</tool_call>"), "not followed by </tool_call>"),
        (write("search", query="a").replace("</tool", "} </tool"), "not followed by </tool_call>"),
        ('<tool_call>{"name": "search", "arguments": {"query": "a",}}</tool_call>', "is not JSON"),
        (
            '<tool_call>{"name": "open", "arguments": {"title": "a", "page": 1e999}}</tool_call>',
            "the number 1e999 is too large",
        ),
        ("<tool_call>[]</tool_call>", 'expected {"name": ..., "arguments": {...}}'),
        ('<tool_call>{"name": 1}</tool_call>', 'expected {"name": ..., "arguments": {...}}'),
        (write("google", query="a"), "there is no tool 'google', only search, open"),
        (write("search"), "'query' is a required property"),
        ('<tool_call>{"name": "search"}</tool_call>', "'query' is a required property"),
        ('<tool_call>{"name": "search", "arguments": "a"}</tool_call>', "not a JSON object"),
        (write("search", query=7), "7 is not of type 'string'"),
        (write("search", query='" "'), "the query is empty"),
        (write("open", title="a", page=0), "0 is less than the minimum of 1"),
        (write("open", title="a", pages=2), "'pages' was unexpected"),
        (write("open", title="a", page="x" * 9999), "xxx..."),
        (write("open", title="a", page=float("nan")), "NaN is not JSON"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "nested too deeply"),
        (f'<tool_call>{{"name": {"9" * 5000}}}</tool_call>', "4300 digits"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(text, problem):
    call = CALLS.parse(text).calls[0]
    assert problem in call.problem and len(call.problem) < 300
    assert call.problem.startswith("The tool was not called: ")


def test_bad_calls_are_answered_in_their_place_and_the_limit_holds_within_a_turn():
    core = ToolQA(CALLS, max_tool_calls=3)
    state, _ = core.begin(Question("q", "Who?", ("Ada",)))
    turn = "".join(
        [write("search", query="a"), write("google"), write("open", title="b"), write("open")]
    )
    assert [call.tool for call in core.pending_calls(state, turn)] == ["search", "open"]
    step = core.transition(state, turn, [ToolResult(True, "one"), ToolResult(True, "three")])
    one, two, three, four = (message["content"] for message in step.observation.messages)
    assert (one, three) == ("one", "three") and step.state.tool_calls == 3
    assert "no tool 'google'" in two and "limit is reached" in four
    step = core.transition(step.state, turn)
    assert step.observation == CALLS.limit_notice and step.state.limit_reached
    step = core.transition(step.state, f"{turn}<answer>Ada</answer>")
    assert step.terminated and step.info["em"] and not step.info["format_ok"]


CALL = write("search", query="a")
ANSWER = "<think>\nb\n</think>\n\n<answer>Ada</answer>"


@pytest.mark.parametrize(
    ("turns", "answer", "format_ok"),
    [
        ([ANSWER], "Ada", True),
        ([CALL, ANSWER], "Ada", True),
        ([f"<think>a</think>{CALL}{CALL}", "b</think><answer> Ada </answer>"], "Ada", True),
        (["<think>a</think>Ada Lovelace"], "Ada Lovelace", False),
        (["It is <answer>Ada</answer>, not <answer>Bob</answer>."], "Bob", False),
        ([f"{CALL}<answer>Ada</answer>"], "Ada", False),
        ([write("google"), ANSWER], "Ada", False),
        (["no call here", ANSWER], "Ada", False),
        ([f"<think>a</think>{CALL}<think>b</think>{CALL}", ANSWER], "Ada", False),
        ([f"<think>a <think> tag</think>{CALL}", ANSWER], "Ada", True),
        ([f"<think>a <tool_call> or {CALL}</think>{CALL}", ANSWER], "Ada", True),
        (["<think>a</think><answer>the </think> tag</answer>"], "the </think> tag", True),
        (["<think>a</think><answer>a <tool_call> tag</answer>"], "a <tool_call> tag", True),
        (["<think>a</think> b </think><answer>Ada</answer>"], "Ada", False),
        (["<think>a</think><answer>Ada"], "<answer>Ada", False),
        (["<think>the <answer>Ada</answer>"], None, False),
        ([CALL], None, False),
        ([""], None, False),
        ([], None, False),
    ],
)
def test_answer_and_format(turns, answer, format_ok):
    assert CALLS.read(turns) == Reading(answer, format_ok)


@pytest.mark.parametrize(
    "thought", ["", "<think>a</think>", "a</think>", "<think><tool_call></think>"]
)
@pytest.mark.parametrize(
    "query",
    [
        "what does </think> mean in Qwen3",
        "what is </tool_call>",
        "</tool_call></think><answer>x</answer>",
        "<think> and <tool_call>",
        "\ud83d Jaws",
        "\0 \u0661",
        "a" * 100_000,
    ],
)
def test_a_query_may_hold_any_tag(thought, query):
    for text in (write("search", query=query), write("search", query=query) * 2):
        calls = CALLS.parse(thought + text).calls
        assert calls == (ToolCall("search", {"query": query}),) * text.count('"search"')
        assert CALLS.read([thought + text, ANSWER]) == Reading("Ada", True)


def test_a_bad_call_fails_alone():
    good, bad = write("search", query="a"), '<tool_call>{"name": "search", }</tool_call>'
    calls = CALLS.parse(f"I will <tool_call> now: {bad}{good}").calls
    assert [bool(call.problem) for call in calls] == [True, True, False]


def test_calls_beyond_those_that_a_turn_may_hold_are_told_so():
    *first, last = CALLS.parse(write("search", query="a") * 10_000).calls
    assert len(first) == 64 and not any(call.problem for call in first)
    assert "at most 64 calls" in last.problem


def test_a_tool_without_a_valid_schema_is_a_fault_of_the_tool():
    broken = ToolCalls(tools=(ToolSpec("broken", "Breaks.", {"type": "thing"}),))
    with pytest.raises(ValueError, match="expected a JSON schema as parameters of the tool 'broke"):
        broken.parse(write("broken"))
