"""The endpoint agent: what it sends, what it makes of replies, and of trouble of every kind."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import threading
import time
from typing import Any

import gymnasium
import httpx2
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.errors import AgentUnusableError, ConfigError
from at2po_agents.evaluation.endpoint.agent import EndpointAgent, EndpointOptions
from at2po_agents.evaluation.endpoint.chat import request_messages
from at2po_agents.evaluation.endpoint.reply import read_completion
from at2po_agents.rollout.agents import Reply
from at2po_envs import Messages, make_dialect
from benchmarks import evaluate
from benchmarks.errors import EvaluationError
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


@pytest.mark.parametrize(("set_to", "sent"), [("", None), (f"{KEY}\r\n", f"Bearer {KEY}")])
def test_a_key_is_sent_without_the_line_end_of_its_file(
    set_to: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", set_to)
    server = Server(says("x"))
    server.agent().act([("q",)])
    assert server.requests[0].headers.get("authorization") == sent


def test_tool_calls_go_both_ways() -> None:
    dialect = make_dialect("tool-calls")
    prompt = dialect.prompt("Who?")
    function = {"name": "search", "arguments": '{"query": "a \\"b\\""}'}
    message = {"content": None, "tool_calls": [{"function": function}]}
    turn = read_completion({"choices": [{"message": message}]}, ()).text
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


@pytest.mark.parametrize("code", [200, 400, 413, 422, 500])
def test_a_full_context_is_no_failure_whatever_its_status(code: int) -> None:
    words = "the request exceeds the available context size"
    server = Server(httpx2.Response(code, json={"error": {"message": words}}))
    assert server.agent().act([("q",)]) == [Reply("", truncated=True)]
    assert len(server.requests) == 1


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
        httpx2.Response(200, json={"error": {"message": "overloaded", "code": 502}}),
        httpx2.Response(200, json={"error": "overloaded"}),
        httpx2.Response(200, json={"choices": [{"error": {"code": 429, "message": "slow"}}]}),
        httpx2.Response(200, json={"choices": [{"message": "a"}]}),
        httpx2.Response(200, json={"choices": [{"message": {"tool_calls": [3]}}]}),
        httpx2.Response(200, json={"choices": [{"message": {"content": [{"type": "image"}]}}]}),
        httpx2.Response(200, json={"choices": {"a": 1}}),
        httpx2.Response(200, text=""),
        httpx2.Response(204),
        says("half a tu", "abort"),
        httpx2.DecodingError("not gzip"),
        status(503, **{"Retry-After": "Fri, 31 Dec 99999 23:59:59 GMT"}),
        status(503, **{"Retry-After": "Mon, 01 Jan 0001 00:00:00 +2359"}),
        status(503, **{"Retry-After": "nan"}),
        status(503, **{"Retry-After": "-5"}),
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
    for absurd in ("86400", "1e400", "inf", "9" * 5000):
        server = Server(status(429, **{"Retry-After": absurd}))
        (reply,) = server.agent().act([("q",)])
        assert "status 429" in reply.error and not server.pauses
    server = Server(says("I", "content_filter"))
    (reply,) = server.agent().act([("q",)])
    assert "filtered it" in reply.error and len(server.requests) == 1
    server = Server(status(400, "no such field"))
    (reply,) = server.agent().act([("q",)])
    assert "no such field" in reply.error and len(server.requests) == 1


@pytest.mark.parametrize("code", [301, 302, 307, 308, 401, 402, 403, 404, 405, 410])
def test_an_endpoint_that_refuses_all_ends_it(code: int) -> None:
    server = Server(status(code, f"wrong key {KEY}"))
    with pytest.raises(AgentUnusableError, match=f"status {code}.*<key>") as raised:
        server.agent(concurrency=4).act([("q",)] * 50)
    assert KEY not in str(raised.value)
    assert len(server.requests) <= 50
    # Cut off in the midst of the key, a part of it would stay.
    for code in (401, 400, 200):
        for room in (470, 490, 290):
            server = Server(status(code, f"{'x' * room}{KEY}{'y' * 500}"))
            try:
                (reply,) = server.agent(retries=0).act([("q",)])
                said = reply.error
            except AgentUnusableError as error:
                said = str(error)
            assert "xxx" in said and KEY[:4] not in said
    with pytest.raises(AgentUnusableError, match="insufficient_quota"):
        Server(status(429, "insufficient_quota")).agent().act([("q",)])


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
    with pytest.raises(EvaluationError, match="all 2 episodes failed, .*<key>") as raised:
        evaluate(agent, env, limit=2, out=tmp_path)
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "<key>" in written
    seen = written + caplog.text + repr(agent.settings) + repr(agent.options) + repr(raised.value)
    assert KEY not in seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": ""}, "found none"),
        ({"url": "endpoint"}, "url: expected http://HOST"),
        ({"url": "http://me:x@endpoint"}, "key_variable"),
        ({"url": "http://endpoint?key=x"}, "key_variable"),
        ({"url": "http://["}, "url: expected"),
        ({"url": "http://[::1"}, "url: expected"),
        ({"url": "http://endpoint:99999/v1"}, "url: expected"),
        ({"url": "http://endpoint/v1#x"}, "url: expected"),
        ({"url": "http://end point/v1"}, "url: expected"),
        ({"url": "http://endpoint\n/v1"}, "url: expected"),
        ({"url": "ftp://endpoint/v1"}, "url: expected"),
        ({"url": "http://:80"}, "url: expected"),
        ({"url": "http://\ud83d"}, "url: expected"),
        ({"concurrency": 0}, "concurrency: expected a number of at least 1"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"retries": -1}, "retries: expected a number of at least 0"),
        ({"prompt_price": float("nan")}, "prompt_price"),
        ({"completion_price": float("inf")}, "completion_price"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"timeout_s": 1e12}, "timeout_s"),
        ({"body": {"top_p": float("nan")}}, "found top_p = nan"),
        ({"body": {"bias": {"a": [float("inf")]}}}, "found bias = "),
        ({"body": {"stream": True}}, "found stream, which the agent sets itself"),
        ({"body": {"n": 2}}, "found n, which the agent sets itself"),
        ({"body": {"temperature": 1.0}}, "found temperature, which the agent sets itself"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Server().agent(**changes)


@pytest.mark.parametrize("secret", ["a b", "a\nb", "\u00e9", "\x00"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setattr(os, "environ", {"OPENAI_API_KEY": secret})
    with pytest.raises(ConfigError, match="OPENAI_API_KEY: expected a key of ASCII") as raised:
        Server().agent()
    assert secret not in str(raised.value)


def test_what_utf8_cannot_hold_is_sent_as_what_it_can() -> None:
    choice = {"message": {"content": "\ud83d x"}, "finish_reason": "stop"}
    server = Server(httpx2.Response(200, text=json.dumps({"choices": [choice]})))
    (reply,) = server.agent().act([("a \ud83d",)])
    server.agent().act([("a", reply.text, "\ud83d")])
    sent = [[each["content"] for each in body["messages"]] for body in server.bodies()]
    assert sent == [["a \ufffd"], ["a", "\ufffd x", "\ufffd"]]


def test_requests_run_side_by_side_and_replies_keep_their_order() -> None:
    together = threading.Barrier(4, timeout=10)

    async def answer(request: httpx2.Request) -> httpx2.Response:
        await asyncio.to_thread(together.wait)
        return says(json.loads(request.content)["messages"][0]["content"])

    server = Server(answer)
    replies = server.agent(concurrency=4).act([(f"q{i}",) for i in range(8)])
    assert [reply.text for reply in replies] == [f"q{i}" for i in range(8)]


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=20, passages=100).unwrapped
