"""A server on a port of its own in a thread, and plain sockets to be rude to it with."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from retrieval import Passage
from retrieval.http.server.app import create_app
from retrieval.http.server.connection import ConnectionBounds
from retrieval.http.server.run import make_server

TIMEOUT_S = 20.0  # long enough for a busy machine; nothing waits so long unless it failed


def wait_for(reached: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    for _ in range(int(timeout_s / 0.01)):
        if reached():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


class Echo:
    """Finds passages that tell which query and `k` they were found for."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def search(self, queries, k):
        self.batches.append(list(queries))
        return [[Passage(f"{q}/{i}", q, f"{k}", 1 / (i + 3)) for i in range(k)] for q in queries]


class Gate(Echo):
    """Lets a search continue only when it is opened; the warm-up passes."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.open = threading.Event(), threading.Event()

    def search(self, queries, k):
        if queries != ["warm up"]:
            self.entered.set()
            assert self.open.wait(TIMEOUT_S)
        return super().search(queries, k)


def metric(page: str, name: str) -> float:
    """The sum of the metrics whose name begins so."""
    lines = page.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@dataclass(frozen=True)
class Live:
    """A running server."""

    port: int
    app: Any
    stop: Callable[[], bool]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def say(self, data: bytes) -> bytes:
        """Send, and return all that comes until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def metric(self, name: str) -> float:
        return metric(self.app.state.metrics.text().decode(), name)

    def wait_for(self, name: str, least: float) -> None:
        wait_for(lambda: self.metric(name) >= least)


@contextmanager
def live(retriever: Any = None, bounds: dict[str, Any] | None = None, **options) -> Iterator[Live]:
    app = create_app(retriever or Echo(), **options)
    all_bounds = ConnectionBounds(
        **{"head_timeout_s": 60.0, "ended": app.state.metrics.ended, **(bounds or {})}
    )
    server = make_server(app, all_bounds, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()

    def stop() -> bool:
        server.should_exit = True
        thread.join(TIMEOUT_S)
        return not thread.is_alive()

    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    running = Live(port, app, stop)
    try:
        wait_for(lambda: b'"ready":true' in running.say(get("/health")))
        yield running
    finally:
        assert stop()


def get(path: str, *headers: str, host: str = "localhost", close: bool = True) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode()


def post(
    *queries: str,
    path: str = "/retrieve",
    kind: str | None = "application/json",
    host: str = "localhost",
    close: bool = True,
    **fields: Any,
) -> bytes:
    body = json.dumps({"queries": queries, **fields}).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    data = b""
    while chunk := _receive(connection):
        data += chunk
    return data


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(2**16)
    except ConnectionResetError:
        return b""


def parse(reply: bytes) -> tuple[int, dict[str, str], Any]:
    """Take a single reply apart: status, headers in lower case, body as JSON."""
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return int(status.split()[1]), headers, json.loads(body)
