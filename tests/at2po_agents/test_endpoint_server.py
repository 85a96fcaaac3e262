"""The endpoint agent against a server on this machine that misbehaves, and one that dies."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.endpoint import EndpointAgent, EndpointOptions
from benchmarks import evaluate
from benchmarks.errors import EvaluationError


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


def agent(env: Any, port: int, **changes: Any) -> EndpointAgent:
    options = EndpointOptions(url=f"http://127.0.0.1:{port}/v1", **changes)
    return EndpointAgent(options, "m", stop=env.core.dialect.stop, sleep=lambda seconds: None)


def test_an_endpoint_that_misbehaves_changes_no_result(env: Any) -> None:
    wanted = evaluate(env.expert(error_rate=0.3), env)
    troubles = (None, 429, None, 500, None, "drop", None, "html", None, None, "hang", None, None)
    with serving(env, *troubles) as server:
        asked = agent(env, server.server_port, timeout_s=0.3, completion_price=1.0)
        report = evaluate(asked, env, batch=16)
        asked.close()
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
    with serving(env) as server:
        port = server.server_port
        whole = agent(env, port, retries=1)
        evaluate(whole, env, out=tmp_path / "whole")
        first = agent(env, port, retries=1)
        evaluate(first, env, limit=5, out=tmp_path / "cut")
        whole.close()
        first.close()
    with pytest.raises(EvaluationError, match="20 episodes in a row"):
        second = agent(env, port, retries=1)
        evaluate(second, env, batch=4, out=tmp_path / "cut")
    second.close()
    with serving(env, port=port):
        third = agent(env, port, retries=1)
        report = evaluate(third, env, out=tmp_path / "cut", retry_failed=True)
        third.close()
    assert not report.failures
    summaries = [(tmp_path / name / "summary.json").read_bytes() for name in ("whole", "cut")]
    assert summaries[0] == summaries[1]
