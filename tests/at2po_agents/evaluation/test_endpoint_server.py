"""The endpoint agent against a server on this machine that misbehaves, and one that dies."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.errors import AgentUnusableError
from at2po_agents.evaluation.endpoint import http as endpoint_http
from at2po_agents.evaluation.endpoint.agent import EndpointAgent, EndpointOptions
from benchmarks import evaluate
from benchmarks.errors import EvaluationError
from tests.raw_server import raw_server


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=30, passages=100).unwrapped


class Scripted(BaseHTTPRequestHandler):
    """Writes what the scripted agent would; every so often it does something else first."""

    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.count += 1
            trouble = server.troubles[server.count % len(server.troubles)]
        if trouble == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif trouble == "hang":
            server.over.wait(1.0)
            self.close_connection = True
        elif trouble == "html":
            self.answer(200, b"<html>")
        elif isinstance(trouble, int):
            self.answer(trouble, b'{"error": {"message": "busy"}}')
        else:
            (text,) = server.expert.act([[each["content"] for each in body["messages"]]])
            cut = next(
                (text.removesuffix(mark) for mark in body["stop"] if text.endswith(mark)), ""
            )
            choice = {"message": {"content": cut or text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            self.answer(200, json.dumps({"choices": [choice], "usage": usage}).encode())

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(env: Any, *troubles: Any, port: int = 0) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", port), Scripted)
    server.expert, server.troubles = env.expert(error_rate=0.3), troubles or (None,)
    server.count, server.lock, server.over = 0, threading.Lock(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def asking(port: int, stop: tuple[str, ...] = (), **changes: Any) -> Iterator[EndpointAgent]:
    options = EndpointOptions(url=f"http://127.0.0.1:{port}/v1", **changes)
    asked = EndpointAgent(options, "m", stop=stop, sleep=lambda seconds: None)
    try:
        yield asked
    finally:
        asked.close()


def error_from(port: int, **changes: Any) -> str:
    """What an agent says of an endpoint that gives it no turn."""
    with asking(port, retries=0, **changes) as asked:
        (reply,) = asked.act([("q",)])
    return reply.error


def test_an_endpoint_that_misbehaves_changes_no_result(env: Any) -> None:
    wanted = evaluate(env.expert(error_rate=0.3), env)
    troubles = (None, 429, None, 500, None, "drop", None, "html", None, None, "hang", None, None)
    with (
        serving(env, *troubles) as server,
        asking(server.server_port, env.core.dialect.stop, timeout_s=0.3, completion_price=1.0) as a,
    ):
        report = evaluate(a, env, batch=16)
    assert not report.failures
    own = {"tokens", "prompt_tokens", "cost", "seed"}
    for episode, scripted in zip(report.episodes, wanted.episodes, strict=True):
        assert {k: v for k, v in episode.items() if k not in own} == {
            k: v for k, v in scripted.items() if k not in own
        }
        assert episode["tokens"] == 10 * episode["turns"]
        assert episode["cost"] == pytest.approx(1e-5 * episode["turns"])
    assert server.count > sum(episode["turns"] for episode in report.episodes)


def test_an_evaluation_outlives_its_endpoint(env: Any, tmp_path: Path) -> None:
    options = {"stop": env.core.dialect.stop, "retries": 1}
    with serving(env) as server:
        port = server.server_port
        with asking(port, **options) as whole, asking(port, **options) as first:
            evaluate(whole, env, out=tmp_path / "whole")
            evaluate(first, env, limit=5, out=tmp_path / "cut")
    with pytest.raises(EvaluationError, match="20 episodes in a row"):
        with asking(port, **options) as second:
            evaluate(second, env, batch=4, out=tmp_path / "cut")
    with serving(env, port=port), asking(port, **options) as third:
        report = evaluate(third, env, out=tmp_path / "cut", retry_failed=True)
    assert not report.failures
    summaries = [(tmp_path / name / "summary.json").read_bytes() for name in ("whole", "cut")]
    assert summaries[0] == summaries[1]


@contextmanager
def talking(talk: Callable[[socket.socket, threading.Event], object]) -> Iterator[int]:
    """A server that reads a request, and then does as told until it is over."""
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        received, more = b"", b"x"
        while more and b"\r\n\r\n" not in received:
            received += (more := connection.recv(65536))
        if more:
            talk(connection, over)

    with raw_server(answer) as port:
        try:
            yield port
        finally:
            over.set()


def drip(head: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(0.02):
            connection.sendall(b"x")

    return talk


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX-Long: ", HEAD + b"Content-Length: 99999\r\n\r\n", HEAD + b"\r\n"],
    ids=["status", "head", "body", "body to the end of the connection"],
)
def test_a_reply_that_drips_is_given_up_in_head_and_body(head: bytes) -> None:
    with talking(drip(head)) as port:
        assert "no whole reply within 0.3 s" in error_from(port, timeout_s=0.3)


def test_a_silent_server_is_given_up() -> None:
    with talking(lambda connection, over: over.wait() and None) as port:
        assert "in 1 attempts" in error_from(port, timeout_s=0.2)


@pytest.mark.parametrize("packed", [False, True])
def test_an_endless_reply_is_given_up(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(endpoint_http, "LARGEST_REPLY", 1 << 20)
    block = gzip.compress(b" " * (1 << 20)) if packed else b" " * (1 << 16)

    def talk(connection: socket.socket, over: threading.Event) -> None:
        coding = b"Content-Encoding: gzip\r\n" if packed else b""
        connection.sendall(HEAD + coding + b"Transfer-Encoding: chunked\r\n\r\n")
        while not over.is_set():
            connection.sendall(b"%x\r\n%s\r\n" % (len(block), block))

    with talking(talk) as port:
        error = error_from(port, timeout_s=60)
    assert ("not compressed, found gzip" if packed else "no end of the reply") in error


def test_a_redirect_does_not_get_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    seen = []

    def other(connection: socket.socket, over: threading.Event) -> None:
        seen.append(connection)

    with talking(other) as port:
        to = (
            f"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\n\r\n"
        )
        with talking(lambda connection, over: connection.sendall(to.encode())) as first:
            with asking(first) as asked, pytest.raises(AgentUnusableError, match="status 307"):
                asked.act([("q",)])
    assert seen == []


def test_an_interrupt_ends_requests_and_pauses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were one of them waited for, this would take hours."""

    def interrupt(asked: EndpointAgent, when: threading.Event) -> None:
        result = Future.result

        def interrupted(self: Any, timeout: float | None = None) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return result(self, timeout)
            when.wait()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Future, "result", interrupted)
            asked.act([(f"q{i}",) for i in range(20)])
        asked.close()

    hang, reached = threading.Event(), threading.Event()

    def talk(connection: socket.socket, over: threading.Event) -> None:
        hang.set()
        over.wait()

    with talking(talk) as port:
        options = EndpointOptions(url=f"http://127.0.0.1:{port}/v1", timeout_s=86400.0)
        interrupt(EndpointAgent(options, "m", stop=(), clock=lambda: 0.0), hang)
    # Nothing listens there any more: the agent pauses for minutes between its attempts.
    slow = EndpointAgent(
        options, "m", stop=(), sleep=lambda _: reached.set() or slow._stopped.wait(3600)
    )
    interrupt(slow, reached)


def test_an_agent_that_was_interrupted_can_be_asked_again(env: Any) -> None:
    stop = env.core.dialect.stop
    with serving(env) as server, asking(server.server_port, stop) as asked:
        asked._stopped.set()
        report = evaluate(asked, env, limit=3)
    assert report.questions == 3 and not report.failed


def test_threads_that_ask_at_once_share_one_loop(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = env.core.dialect.stop
    with serving(env) as server, asking(server.server_port, stop, concurrency=32) as asked:
        prompts = [(env.core.begin(question)[1],) for question in env.questions[:4]] * 16
        for _ in range(3):
            asked.close()
            endpoint_http._loop.forget()  # as in a process that has asked nothing yet
            threads = {thread for thread in threading.enumerate() if thread.name == "endpoints"}
            assert not any(reply.error for reply in asked.act(prompts))
            started = set(threading.enumerate()) - threads
            assert sum(thread.name == "endpoints" for thread in started) == 1


def test_an_agent_that_was_closed_opens_new_connections(env: Any) -> None:
    prompt, stop = env.core.begin(env.questions[0])[1], env.core.dialect.stop
    with serving(env) as server, asking(server.server_port, stop) as asked:
        first = asked.act([(prompt,)])
        asked.close()
        asked.close()
        assert asked.act([(prompt,)]) == first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_asks_on_a_loop_of_its_own(env: Any) -> None:
    prompt, stop = env.core.begin(env.questions[0])[1], env.core.dialect.stop
    with serving(env) as server, asking(server.server_port, stop) as asked:
        (reply,) = asked.act([(prompt,)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(0 if asked.act([(prompt,)]) == [reply] else 1)
        assert os.waitpid(child, 0)[1] == 0
