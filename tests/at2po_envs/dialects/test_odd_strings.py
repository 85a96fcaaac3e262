"""Whatever a model writes, every dialect reads it without an exception and with one outcome."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs import ToolQA, ToolResult
from at2po_envs.dialects import DIALECTS, make_dialect
from at2po_envs.question_sets.questions import Question

PIECES = [
    *(f"<{slash}{tag}>" for tag in
      ("think", "search", "answer", "result", "information", "tool_call")
      for slash in ("", "/")),
    *("\\boxed{", "}", "\\boxed ", "$", '"', "{", "[", "]", "\n", " ", "\0", "\ud800", "\u8bd7",
      '{"name": "search", "arguments": ', '{"query": "a"}', '{"query": 1}', "null", "1e999"),
]  # fmt: skip
ODD = st.lists(st.sampled_from(PIECES) | st.text(st.characters(), max_size=5), max_size=12).map(
    "".join
)
LONG = [
    "a" * 100_000,
    "<search>" * 20_000,
    "<search>" + "\u8bd7" * 100_000 + "</search>",
    "<answer>" * 20_000 + "</answer>" * 20_000,
    "<think>" * 20_000 + "</think>" * 20_000,
    "<tool_call>" * 10_000,
    "<tool_call>" + "[" * 100_000 + "]" * 100_000 + "</tool_call>",
    '<tool_call>{"name": "search", "arguments": {"query": '
    + '{"a": ' * 900 + "1" + "}" * 900 + "}}</tool_call>",
    '<tool_call>{"name": "search", "arguments": {"query": "' + "\\ud800" * 9 + '"}}</tool_call>',
    "<answer>\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}</answer>",
]  # fmt: skip
QUESTION = Question("q", "Who?", ("x",))


def play(name, turns):
    """Play turns until the episode ends, with a stand-in for every tool; return the last step."""
    core = ToolQA(make_dialect(name), max_tool_calls=2)
    state, _ = core.begin(QUESTION)
    for turn in turns:
        pending = core.pending_calls(state, turn)
        assert all(call.tool == "search" and call.arguments["query"] for call in pending)
        assert core.truncate(state, turn).truncated
        step = core.transition(state, turn, [ToolResult(True, "found")] * len(pending))
        state = step.state
        assert bool(step.observation) != step.terminated  # either it goes on or it has ended
        if step.terminated:
            break
    if not state.done:
        step = core.truncate(state, turns[-1])
    assert step.reward in (-1.0, 0.0, 1.0) and len(state.turns) <= 4
    assert step.info["em"] in (True, False) and step.info["format_ok"] in (True, False)
    assert step.info["answer"] is None or isinstance(step.info["answer"], str)
    return step


@pytest.mark.parametrize("name", DIALECTS)
@given(turns=st.lists(ODD, min_size=1, max_size=5))
def test_any_text_has_an_outcome(name, turns):
    assert play(name, turns) == play(name, turns)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("number", range(len(LONG)))
def test_long_and_deep_texts_have_an_outcome(name, number):
    play(name, [LONG[number]] * 4)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<search>", "<answer>", "<think><search>", "<think></think>",
     "<answer></think>", "<tool_call>", "<tool_call>{", '<tool_call>{"', '<tool_call>{"a":"',
     "<tool_call>x</tool_call>", "<tool_call>{}</tool_call>", "<tool_call>{}", " <tool_call>\n"],
)  # fmt: skip
def test_turns_are_read_in_linear_time(name, piece):
    # Were each tag looked for again behind every one before it, this would take hours.
    dialect, turn = make_dialect(name), piece * 30_000
    for text in (turn, turn + "</search>", turn + "</answer>"):
        dialect.parse(text)
        dialect.read([text, text])
