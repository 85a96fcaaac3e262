"""Sound clients notice nothing of rude ones, and these leave nothing behind."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")

from retrieval.http.client import RemoteRetriever
from retrieval.http.server.logs import few_alike
from retrieval.http.server.run import _CHATTY
from tests.retrieval.http.live_server import Echo, Live, live

SECONDS = float(os.environ.get("AT2PO_SOAK_SECONDS", "5"))
CLIENTS = 16
_HELD = 400  # connections that one client holds at the same time
_LINE = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\n"

Pause = Callable[[float], bool]


@contextmanager
def rude(port: int, clients: int) -> Iterator[Counter[str]]:
    """Let clients of every kind be rude to a server of this machine meanwhile; count attempts."""
    done: Counter[str] = Counter()
    over = threading.Event()
    kinds = list(KINDS)
    threads = [
        threading.Thread(target=repeat, args=(kinds[i % len(kinds)], port, i, over, done))
        for i in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        over.set()
        for thread in threads:
            thread.join()


def repeat(name: str, port: int, seed: int, over: threading.Event, done: Counter[str]) -> None:
    """Be rude in one way until it is over."""
    draws = np.random.default_rng(seed)
    while not over.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                KINDS[name](connection, draws, over.wait)
        except OSError:
            pass  # that is what they are for
        done[name] += 1
        over.wait(0.02)


def _post(fields: Mapping[str, Any] | bytes, *headers: bytes) -> bytes:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    lines = [b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers]
    return _LINE + b"\r\n".join([*lines, b"", body])


def _silent(connection: socket.socket, draws: np.random.Generator, pause: Pause) -> None:
    host, port = connection.getpeername()
    held = [connection]
    try:
        while len(held) < _HELD and not pause(0.002):
            held.append(socket.create_connection((host, port), timeout=5))
        pause(15)
    finally:
        for each in held:
            each.close()


def _drip(data: bytes) -> Callable[..., None]:
    def drip(connection: socket.socket, draws: np.random.Generator, pause: Pause) -> None:
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
            if pause(0.3):
                return

    return drip


def _say(data: bytes, *, read: bool = True) -> Callable[..., None]:
    def say(connection: socket.socket, draws: np.random.Generator, pause: Pause) -> None:
        connection.sendall(data)
        while read and connection.recv(2**16):
            pass
        if not read:
            pause(draws.uniform(0, 10))

    return say


def _broken_off(connection: socket.socket, draws: np.random.Generator, pause: Pause) -> None:
    data = _post({"queries": ["river"] * 50})
    connection.sendall(data[: draws.integers(len(_LINE), len(data))])


def _noise(connection: socket.socket, draws: np.random.Generator, pause: Pause) -> None:
    connection.sendall(draws.bytes(int(draws.integers(1, 5000))))
    connection.recv(2**16)


def _churn(connection: socket.socket, draws: np.random.Generator, pause: Pause) -> None:
    """Connect and go."""


KINDS: dict[str, Callable[..., None]] = {
    "holds silent connections": _silent,
    "drips a head": _drip(_LINE + b"X: " + b"x" * 10**4),
    "drips a body": _drip(_post({"queries": ["x" * 1000]})),
    "breaks off": _broken_off,
    "sends noise": _noise,
    "connects and goes": _churn,
    "sends a long head": _say(_LINE + b"X: " + b"x" * 10**6),
    "sends a long body": _say(_post(b"x" * 6 * 2**20, b"Connection: close")),
    "sends millions of wrong queries": _say(
        _post(b'{"queries": [' + b"1," * 10**6 + b"1]}", b"Connection: close")
    ),
    "names a foreign host": _say(
        _post({"queries": ["a"]}, b"Connection: close").replace(b"localhost", b"evil.example")
    ),
    "asks for pages that are not there": _say(
        _post({}, b"Connection: close").replace(b"/retrieve", b"/retrieve/")
    ),
    "sends surrogates": _say(_post(b'{"queries": ["\\ud83d"]}', b"Connection: close")),
    "reads no reply": _say(_post({"queries": ["river"] * 8, "topk": 100}), read=False),
    "sends many requests at once": _say(_post({"queries": ["river"]}) * 50, read=False),
}


def ask(server: Live, number: int, until: float) -> int:
    """Ask one question after the other, each answered as in process; return how many."""
    asked = 0
    with closing(RemoteRetriever(f"http://127.0.0.1:{server.port}", seed=number)) as client:
        while time.perf_counter() < until:
            query, k = f"river {number} {asked}", 1 + asked % 3
            assert client.search([query], k) == Echo().search([query], k)
            asked += 1
    return asked


def held() -> tuple[int, float]:
    """Descriptors and MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return descriptors, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_sound_clients_lose_nothing_beside_rude_ones(caplog: pytest.LogCaptureFixture) -> None:
    """`AT2PO_SOAK_SECONDS` makes it longer."""
    with few_alike(*_CHATTY), live() as server, ThreadPoolExecutor(CLIENTS) as pool:
        for seconds in (1.0, SECONDS):  # the first time fills caches
            before = held()
            with rude(server.port, 2 * len(KINDS)) as attempts:
                asking = partial(ask, server, until=time.perf_counter() + seconds)
                counts = list(pool.map(asking, range(CLIENTS)))
                assert min(counts) > 0
            assert attempts.keys() == KINDS.keys()
        for _ in range(200):
            if held()[0] <= before[0] + 8:
                break
            time.sleep(0.05)
        descriptors, mib = held()
    assert descriptors <= before[0] + 8
    assert mib < before[1] + 64
    assert len([record for record in caplog.records if record.levelname != "DEBUG"]) < 100
