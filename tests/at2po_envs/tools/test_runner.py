"""Carrying out tool calls: batches, failures, deadlines, calls in the background."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest

from at2po_envs import ToolCall, ToolEnv, ToolResult, ToolSpec
from at2po_envs.errors import ToolResultError, UnknownNameError
from at2po_envs.tools import ToolRunner, call_tools, hung_calls
from retrieval.http.errors import TemporaryRemoteError


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
def test_a_call_that_a_tool_raises_at_fails_alone(timeout_s):
    tools = {"a": Echo("a"), "b": Echo("b", batched=False)}
    asked = calls(("a", "raise"), ("b", "raise"), ("b", "fine"), ("a", "x"))
    results = call_tools(tools, asked, timeout_s)
    assert [result.ok for result in results] == [False, False, True, True]
    assert tools["a"].batches == [["raise", "x"], ["raise"], ["x"]]
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


def test_without_a_deadline_calls_run_where_they_are_submitted():
    a = Echo("a")
    runner = ToolRunner({"a": a})
    runner.submit([("x", calls(("a", "1"), ("a", "2"))), ("y", ()), ("z", calls(("a", "3")))])
    assert a.batches == [["1", "2", "3"]] and a.threads == [threading.current_thread()]
    texts = {key: [result.text for result in found] for key, found in runner.collect()}
    assert texts == {"x": ["a: 1", "a: 2"], "y": [], "z": ["a: 3"]}
    assert (len(runner), runner.collect(wait=True)) == (0, [])


def test_an_episode_waits_for_its_own_calls_only():
    slow, quick = Echo("slow", batched=False), Echo("quick")
    runner = ToolRunner({"slow": slow, "quick": quick}, timeout_s=60.0)
    runner.submit([("hung", calls(("quick", "1"), ("slow", "hang"))), ("done", ())])
    assert [key for key, _ in runner.collect(wait=True)] == ["done"]
    runner.submit([("later", calls(("quick", "2"), ("slow", "3")))])
    ((key, found),) = runner.collect(wait=True)
    assert (key, [result.text for result in found]) == ("later", ["quick: 2", "slow: 3"])
    assert (len(runner), runner.collect()) == (1, [])
    slow.release.set()
    ((key, found),) = runner.collect(wait=True)
    assert (key, [result.text for result in found]) == ("hung", ["quick: 1", "slow: hang"])


def test_a_late_call_fails_and_its_thread_does_not_count_any_more(monkeypatch):
    monkeypatch.setattr("at2po_envs.tools.runner._THREADS", 1)
    slow = Echo("slow", batched=False)
    runner = ToolRunner({"slow": slow}, timeout_s=0.3)
    runner.submit([(i, calls(("slow", "hang"))) for i in range(3)])
    late = runner.collect(wait=True)
    assert [key for key, _ in late] == [0, 1, 2]  # those that never got a thread are late too
    assert all("did not answer within 0.3 s" in found[0].error for _, found in late)
    runner.submit([(3, calls(("slow", "free")))])
    ((_, found),) = runner.collect(wait=True)
    assert found[0].text == "slow: free"
    slow.release.set()  # what the hung calls say now is nobody's result
    assert runner.collect() == []


def test_errors_of_the_set_up_are_raised_by_collect():
    runner = ToolRunner({"a": Echo("a")}, timeout_s=60.0)
    runner.submit([(0, calls(("a", "bad corpus")))])
    with pytest.raises(UnknownNameError):
        runner.collect(wait=True)


def test_a_server_that_is_away_is_not_asked_for_each_call():
    class Away(Echo):
        def __call__(self, arguments):
            self.batches.append(len(arguments))
            raise TemporaryRemoteError("away")

    tool = Away("a")
    assert not any(result.ok for result in call_tools({"a": tool}, calls(*[("a", "x")] * 9)))
    assert tool.batches == [9]


class Broken(Echo):
    """Raises what it is told to, by name."""

    def __call__(self, arguments):
        for each in arguments:
            raise ERRORS[each["text"]]
        return []


ERRORS = {
    error.__name__: error
    for error in (RecursionError, MemoryError, SystemExit, GeneratorExit, asyncio.CancelledError,
                  UnicodeEncodeError, StopIteration, BaseException)
}  # fmt: skip


@pytest.mark.parametrize("timeout_s", [None, 30.0])
@pytest.mark.parametrize("name", ERRORS)
def test_whatever_a_tool_raises_fails_its_own_call_only(name, timeout_s):
    tools = {"a": Broken("a"), "b": Echo("b")}
    failed, fine = call_tools(tools, calls(("a", name), ("b", "x")), timeout_s)
    assert (failed.error, fine.text) == ("The a tool failed. Try again.", "b: x")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), SystemExit(15)])
def test_a_signal_during_a_call_is_no_failure_of_the_tool(error, monkeypatch):
    monkeypatch.setitem(ERRORS, "signal", error)
    with pytest.raises(type(error)):
        call_tools({"a": Broken("a")}, calls(("a", "signal")))


@pytest.mark.parametrize("found", [None, [None], "x", [ToolResult(True, None)]])
def test_results_that_are_none_are_a_fault_of_the_tool(found):
    tool = Echo("a")
    tool.__class__ = type("Odd", (Echo,), {"__call__": lambda self, arguments: found})
    with pytest.raises(ToolResultError, match="expected a list of ToolResult with texts from tool"):
        call_tools({"a": tool}, calls(("a", "x")))


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, 1e12, -math.inf, "5"])
def test_a_deadline_that_no_thread_can_wait_for_is_refused(timeout_s):
    for make in (
        lambda: call_tools({}, [], timeout_s),
        lambda: ToolRunner({}, timeout_s),
        lambda: ToolEnv([("?", "x")], [Echo("a")], tool_timeout_s=timeout_s),
    ):
        with pytest.raises(ValueError, match="expected tool_timeout_s > 0 and at most"):
            make()
    assert call_tools({"a": Echo("a")}, calls(("a", "x")), threading.TIMEOUT_MAX)[0].ok


def test_hung_calls_leave_a_bounded_number_of_threads():
    slow, other = Echo("slow", batched=False), Echo("other")
    tools, before = {"slow": slow, "other": other}, threading.active_count()
    errors = [
        call_tools(tools, calls(("slow", "hang")), timeout_s=0.01)[0].error for _ in range(300)
    ]
    assert threading.active_count() - before == hung_calls() == 16
    assert all("did not answer within 0.01 s" in error for error in errors[:16])
    assert all(error.startswith("The slow tool hangs:") for error in errors[16:])
    assert call_tools(tools, calls(("other", "x")), timeout_s=30.0)[0].text == "other: x"
    slow.release.set()
    while hung_calls():
        time.sleep(0.001)
    assert call_tools(tools, calls(("slow", "x")), timeout_s=30.0)[0].text == "slow: x"


def test_all_tools_together_leave_a_bounded_number_of_threads():
    many = [Echo(f"t{i}", batched=False) for i in range(40)]
    for tool in many:
        asked = calls(*[(tool.spec.name, "hang")] * 5)
        call_tools({tool.spec.name: tool}, asked, timeout_s=0.01)
    assert hung_calls() < 64 + 5
    for tool in many:
        tool.release.set()
    while hung_calls():
        time.sleep(0.001)


def test_how_many_calls_hang_is_in_info():
    slow = Echo("slow", batched=False)
    env = ToolEnv([("?", "x")], [slow], tool_timeout_s=0.05)
    env.reset(seed=0)
    info = env.step("<think>a</think> <slow> hang </slow>")[-1]
    assert (info["hung_calls"], info["flags"]) == (1, ("tool_failed",))
    slow.release.set()
    while hung_calls():
        time.sleep(0.001)
    assert "hung_calls" not in env.step("<think>a</think> <slow> x </slow>")[-1]
