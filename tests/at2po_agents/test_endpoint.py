"""The endpoint agent: what it sends, what it makes of replies, and of trouble of every kind."""

from __future__ import annotations

import email.utils
import json
import logging
import threading
import time
from typing import Any

import gymnasium
import httpx2
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.agents import Reply
from at2po_agents.endpoint import EndpointAgent, EndpointOptions
from at2po_agents.endpoint_chat import request_messages, turn_text
from at2po_agents.errors import AgentUnusableError, ConfigError
from at2po_envs import Messages, make_dialect
from benchmarks import evaluate
from tests import http_double

KEY = "sk-very-secret"
STOP = ("</search>", "</answer>")


class Server(http_double.Server):
    """Makes agents of itself, too."""

    def agent(self, **changes: Any) -> EndpointAgent:
        own = {name: changes.pop(name) for name in ("temperature", "seed") if name in changes}
        changes = {"url": "http://endpoint/v1", "concurrency": 1, **changes}
        return EndpointAgent(
            EndpointOptions(**changes),
            "some-model",
            stop=STOP,
            transport=httpx2.MockTransport(self),
            clock=lambda: self.now,
            sleep=self.sleep,
            **own,
        )

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def says(text: str | None, finish: str = "stop", **message: Any) -> httpx2.Response:
    choice = {"message": {"content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 1000, "completion_tokens": 10}
    return httpx2.Response(200, json={"choices": [choice], "usage": usage})


def status(code: int, text: str = "so be it", **headers: str) -> httpx2.Response:
    return httpx2.Response(code, json={"error": {"message": text}}, headers=headers)


def test_a_request_is_what_an_endpoint_expects() -> None:
    server = Server(says("Hm. <search> Ada"))
    agent = server.agent(
        temperature=0.5, prompt_price=2.0, completion_price=10.0, body={"top_p": 0.9}
    )
    transcript = ("Question: Who?\n", "<search> a </search>", " <result>\nb\n</result>")
    (reply,) = agent.act([transcript])
    assert reply == Reply("Hm. <search> Ada</search>", 10, False, 1000, 0.0021)
    (body,) = server.bodies()
    seed = body.pop("seed")
    assert 0 <= seed < 2**31
    assert body == {
        "model": "some-model",
        "messages": [
            {"role": "user", "content": "Question: Who?\n"},
            {"role": "assistant", "content": "<search> a </search>"},
            {"role": "user", "content": " <result>\nb\n</result>"},
        ],
        "temperature": 0.5,
        "max_tokens": 1024,
        "stop": list(STOP),
        "top_p": 0.9,
    }
    request = server.requests[0]
    assert str(request.url) == "http://endpoint/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    agent.act([transcript])
    agent.act([transcript[:1]])
    assert [body["seed"] == seed for body in server.bodies()[1:]] == [True, False]


def test_no_key_is_sent_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server = Server(says("x"))
    server.agent().act([("q",)])
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"finish_reason": "stop"}, "<think> a </think> <search> b"),
        ({"finish_reason": "stop", "stop_reason": "</search>"}, "<think> a </think> <search> b"),
        ({"finish_reason": "stop", "stop_reason": 151645}, "<think> a </think> <search> b"),
        ({"finish_reason": "stop"}, "<think> a </think> <search> b</search> <result> made up"),
    ],
)
def test_the_stop_string_is_there_once(choice: dict[str, Any], text: str) -> None:
    said = turn_text({**choice, "message": {"content": text}}, STOP)
    assert said == "<think> a </think> <search> b</search>"


@pytest.mark.parametrize(
    ("finish", "text"),
    [("stop", "I do not know."), ("length", "<answer> a"), ("stop", "<answer> a </answer>")],
)
def test_nothing_is_put_behind_other_texts(finish: str, text: str) -> None:
    assert turn_text({"finish_reason": finish, "message": {"content": text}}, STOP) == text


def test_the_tag_opened_last_is_the_one_closed() -> None:
    choice = {"finish_reason": "stop", "message": {"content": "I could <search> but <answer> x"}}
    assert turn_text(choice, STOP).endswith("<answer> x</answer>")


def test_tool_calls_go_both_ways() -> None:
    dialect = make_dialect("tool-calls")
    prompt = dialect.prompt("Who?")
    function = {"name": "search", "arguments": '{"query": "a \\"b\\""}'}
    turn = turn_text({"message": {"content": None, "tool_calls": [{"function": function}]}}, ())
    (call,) = dialect.parse(turn).calls
    assert (call.tool, call.arguments, call.problem) == ("search", {"query": 'a "b"'}, "")
    result = Messages("found", [{"role": "tool", "content": "found"}])
    *_, user, assistant, tool = request_messages([prompt, turn, result])
    assert user == {"role": "user", "content": "Who?"}
    (sent,) = assistant["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"query": 'a "b"'}
    assert tool == {"role": "tool", "content": "found", "tool_call_id": sent["id"]}
    # What is no call stays text, and so does the reply to it.
    *_, assistant, user = request_messages([prompt, "<tool_call> no </tool_call>", result])
    assert "tool_calls" not in assistant and user == {"role": "user", "content": "found"}
    server = Server(says("x"))
    server.agent().act([(prompt,)])
    assert server.bodies()[0]["tools"][0]["function"]["name"] == "search"


def test_a_reply_without_room_is_cut_off() -> None:
    full = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    server = Server(says("<think> a", "length"), httpx2.Response(400, json=full))
    first, second = server.agent().act([("q",), ("q",)])
    assert (first.text, first.truncated) == ("<think> a", True)
    assert second == Reply("", truncated=True)


@pytest.mark.parametrize(
    "trouble",
    [
        status(429),
        status(500),
        status(503),
        status(408),
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("cut"),
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, json={"choices": []}),
        httpx2.Response(200, json={"choices": [{"message": {"content": 3}}]}),
        httpx2.Response(200, json=["a"]),
        httpx2.Response(200, text="[" * 100_000),
    ],
    ids=str,
)
def test_passing_trouble_is_waited_out(trouble: Any) -> None:
    server = Server(trouble, trouble, says("<answer> a"))
    (reply,) = server.agent().act([("q",)])
    assert reply.text == "<answer> a</answer>"
    assert len(server.pauses) == 2
    assert 0.25 <= server.pauses[0] <= 0.75 and 0.5 <= server.pauses[1] <= 1.5


def test_pauses_are_as_long_as_asked() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    asked = [status(429, **{"Retry-After": text}) for text in ("7", "1.5", date, "soon")]
    server = Server(*asked, says("a"))
    server.agent().act([("q",)])
    first, second, third, fourth = server.pauses
    assert 7.25 <= first <= 7.75 and 2.0 <= second <= 3.0
    assert 27 <= third <= 34 and fourth <= 6.0


def test_an_endpoint_that_gives_up_fails_the_episode_alone() -> None:
    server = Server(status(500, "dying"), status(500), status(500), says("a"))
    first, second = server.agent(retries=2).act([("q",), ("q",)])
    assert "in 3 attempts" in first.error and "status 500" in first.error
    assert second == Reply("a", 10, False, 1000, 0.0)
    server = Server(status(429, **{"Retry-After": "86400"}))
    (reply,) = server.agent().act([("q",)])
    assert "status 429" in reply.error and not server.pauses
    server = Server(status(400, "no such field"))
    (reply,) = server.agent().act([("q",)])
    assert "no such field" in reply.error and len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403, 404])
def test_an_endpoint_that_refuses_all_ends_it(code: int) -> None:
    server = Server(status(code, f"wrong key {KEY}"))
    with pytest.raises(AgentUnusableError, match=f"status {code}.*<key>") as raised:
        server.agent(concurrency=4).act([("q",)] * 50)
    assert KEY not in str(raised.value)
    assert len(server.requests) <= 50
    with pytest.raises(AgentUnusableError, match="insufficient_quota"):
        Server(status(429, "insufficient_quota")).agent().act([("q",)])


def test_a_reply_that_drips_is_given_up() -> None:
    server = Server()

    def drip(request: httpx2.Request) -> httpx2.Response:
        def chunks() -> Any:
            for _ in range(100):
                server.now += 1
                yield b" "

        return httpx2.Response(200, content=chunks())

    server.answers = [drip]
    (reply,) = server.agent(timeout_s=5, retries=0).act([("q",)])
    assert "no whole reply within 5" in reply.error


def test_rates_are_kept_and_what_was_not_needed_is_given_back() -> None:
    server = Server(says("a"))
    server.agent(requests_per_minute=2).act([("q",)] * 5)
    assert server.now == 120
    server = Server(says("a"))  # counts 1010 tokens, whatever was guessed
    server.agent(tokens_per_minute=3000, max_tokens=1900).act([("q",)] * 3)
    assert server.now == 60


def test_the_key_is_nowhere(env: Any, caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server(status(500, f"it was {KEY}"))
    agent = server.agent(retries=1)
    report = evaluate(agent, env, limit=2, out=tmp_path)
    assert len(report.failures) == 2 and "<key>" in report.failures[0]["error"]
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    seen = written + caplog.text + repr(agent.settings) + repr(agent.options)
    assert KEY not in seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": ""}, "found none"),
        ({"url": "endpoint"}, "expected one such as"),
        ({"url": "http://me:x@endpoint"}, "key_variable"),
        ({"url": "http://endpoint?key=x"}, "key_variable"),
        ({"concurrency": 0}, "concurrency: expected at least 1"),
        ({"retries": -1}, "retries: expected at least 0"),
        ({"prompt_price": float("nan")}, "prompt_price"),
        ({"timeout_s": 0.0}, "timeout_s"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Server().agent(**changes)


def test_requests_run_side_by_side_and_replies_keep_their_order() -> None:
    together = threading.Barrier(4, timeout=10)

    def answer(request: httpx2.Request) -> httpx2.Response:
        together.wait()
        return says(json.loads(request.content)["messages"][0]["content"])

    server = Server(answer)
    replies = server.agent(concurrency=4).act([(f"q{i}",) for i in range(8)])
    assert [reply.text for reply in replies] == [f"q{i}" for i in range(8)]


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=20, passages=100).unwrapped
