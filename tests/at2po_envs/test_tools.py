"""Carrying out tool calls: batches, failures, deadlines."""

from __future__ import annotations

import threading

import pytest

from at2po_envs import ToolCall, ToolResult, ToolSpec
from at2po_envs.errors import ToolResultError, UnknownNameError
from at2po_envs.tools import call_tools


class Echo:
    def __init__(self, name="echo", batched=True):
        self.spec = ToolSpec(name, "Says it again.", {"type": "object", "required": ["text"]})
        self.batched, self.batches, self.threads = batched, [], []
        self.release = threading.Event()

    def __call__(self, arguments):
        texts = [each["text"] for each in arguments]
        self.batches.append(texts)
        self.threads.append(threading.current_thread())
        if "hang" in texts:
            self.release.wait()
        if "raise" in texts:
            raise OSError("gone")
        if "bad corpus" in texts:
            raise UnknownNameError("no such corpus")
        return [ToolResult(True, f"{self.spec.name}: {text}") for text in texts if text != "lose"]


def calls(*pairs):
    return [ToolCall(tool, {"text": text}) for tool, text in pairs]


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_each_tool_gets_one_batch_and_results_keep_their_order(timeout_s):
    a, b = Echo("a"), Echo("b", batched=False)
    asked = calls(("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"))
    results = call_tools({"a": a, "b": b}, asked, timeout_s)
    assert [result.text for result in results] == ["a: 1", "b: 2", "a: 3", "b: 4"]
    assert a.batches == [["1", "3"]] and sorted(b.batches) == [["2"], ["4"]]
    here = threading.current_thread()
    assert all((thread is here) == (timeout_s is None) for thread in a.threads + b.threads)
    assert call_tools({"a": a}, [], timeout_s) == []


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_a_tool_that_raises_fails_its_own_batch_only(timeout_s):
    tools = {"a": Echo("a"), "b": Echo("b", batched=False)}
    asked = calls(("a", "raise"), ("b", "raise"), ("b", "fine"), ("a", "x"))
    results = call_tools(tools, asked, timeout_s)
    assert [result.ok for result in results] == [False, False, True, False]
    assert results[0].error == "The a tool failed. Try again."


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_errors_of_the_set_up_and_lost_results_are_not_swallowed(timeout_s):
    with pytest.raises(UnknownNameError):
        call_tools({"a": Echo("a")}, calls(("a", "bad corpus")), timeout_s)
    with pytest.raises(ToolResultError, match="expected 2 results of tool 'a', found 1"):
        call_tools({"a": Echo("a")}, calls(("a", "lose"), ("a", "x")), timeout_s)


def test_a_hung_call_delays_nothing_but_itself():
    slow, quick = Echo("slow", batched=False), Echo("quick")
    asked = calls(("slow", "hang"), ("quick", "1"), ("slow", "2"))
    results = call_tools({"slow": slow, "quick": quick}, asked, timeout_s=0.5)
    slow.release.set()
    assert [result.text for result in results] == ["", "quick: 1", "slow: 2"]
    assert results[0].error.startswith("The slow tool did not answer within 0.5 s.")


def test_more_calls_than_threads_are_all_answered():
    tool = Echo("a", batched=False)
    results = call_tools({"a": tool}, calls(*[("a", str(i)) for i in range(300)]), 60.0)
    assert [result.text for result in results] == [f"a: {i}" for i in range(300)]
