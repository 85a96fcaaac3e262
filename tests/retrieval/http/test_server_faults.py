"""Servers that are killed, hung, overloaded, stopped or cannot start: real processes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from retrieval import Passage
from retrieval.errors import SearchArgumentError
from retrieval.http.client import RemoteRetriever
from retrieval.http.errors import (
    IndexMismatchError,
    RemoteDeadlineError,
    ServerStartError,
    TemporaryRemoteError,
)

pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")

from retrieval.http.server.run import ServeOptions, serve
from tests.retrieval.http import live_server
from tests.retrieval.http.live_server import Echo, wait_for

SERVER = Path(__file__).with_name("echo_server.py")
TIMEOUT_S = 60.0

Start = Callable[..., subprocess.Popen[bytes]]
Connect = Callable[..., RemoteRetriever]


@pytest.fixture
def port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def start(port: int) -> Iterator[Start]:
    """Starts a server process; all are killed in the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(
        index_hash: str = "f00",
        seconds: float = 0.001,
        deadline_s: float = 30.0,
        waiting: int = 999,
    ) -> subprocess.Popen[bytes]:
        words = [port, index_hash, seconds, deadline_s, waiting]
        processes.append(subprocess.Popen([sys.executable, str(SERVER), *map(str, words)]))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def remote(port: int) -> Iterator[Connect]:
    """Makes clients; all are closed in the end."""
    clients: list[RemoteRetriever] = []

    def connect(**options) -> RemoteRetriever:
        clients.append(RemoteRetriever(f"http://127.0.0.1:{port}", **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def expected(query: str, k: int, index_hash: str = "f00") -> list[list[Passage]]:
    return [[Passage(f"{query}/{i}", query, index_hash, 1 / (i + 3)) for i in range(k)]]


def metric(port: int, name: str) -> float:
    page = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    return live_server.metric(page, f"at2po_retrieval_{name} ")


class Clients:
    """Search without a pause in threads of their own, at most so often; check every answer."""

    def __init__(self, remote: Connect, number: int, most: int = 10**9, **options) -> None:
        self.answers, self.errors, self.most = [0] * number, [], most
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._search, args=(i, remote(seed=i, **options)))
            for i in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def _search(self, number: int, client: RemoteRetriever) -> None:
        while not self._stop.is_set() and self.answers[number] < self.most:
            query, k = f"{number} {self.answers[number]}", 1 + self.answers[number] % 3
            try:
                if client.search([query], k) != expected(query, k):
                    raise AssertionError(f"a wrong answer to {query!r}")
                self.answers[number] += 1
            except Exception as error:
                self.errors.append(error)
                if not isinstance(error, TemporaryRemoteError):
                    return

    def wait_for_answers(self, more: int) -> None:
        """Wait until every client has got so many more answers, or has ended."""
        goal = [count + more for count in self.answers]

        def reached() -> bool:
            done = (count >= least for count, least in zip(self.answers, goal, strict=True))
            return all(done) or not any(thread.is_alive() for thread in self._threads)

        wait_for(reached, TIMEOUT_S)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)


@pytest.mark.slow
def test_clients_recover_when_the_server_is_killed_and_started_again(remote, start):
    server = start()
    remote().wait_until_ready(TIMEOUT_S)
    clients = Clients(remote, 8, timeout_s=TIMEOUT_S)
    for _ in range(2):
        clients.wait_for_answers(20)
        server.kill()  # in the middle of requests
        server.wait()
        server = start()
    clients.wait_for_answers(20)
    clients.stop()
    assert clients.errors == []  # the retries bridged the gap, and no answer was wrong


@pytest.mark.slow
def test_a_server_that_comes_back_with_another_index_is_noticed_at_its_first_reply(remote, start):
    server = start()
    remote(index_hash="f00").wait_until_ready(TIMEOUT_S)
    clients = Clients(remote, 4, timeout_s=TIMEOUT_S, index_hash="f00")
    clients.wait_for_answers(5)
    server.kill()
    server.wait()
    start("ba7")
    clients.wait_for_answers(10**6)  # until all have ended
    clients.stop()
    assert [type(error) for error in clients.errors] == [IndexMismatchError] * 4
    with pytest.raises(IndexMismatchError):
        remote(index_hash="f00").wait_until_ready(TIMEOUT_S)


@pytest.mark.slow
def test_a_hung_retriever_ends_in_a_typed_error_and_the_server_still_stops(port, remote, start):
    server = start(deadline_s=0.5)
    client = remote(timeout_s=3.0, retries=0)
    client.wait_until_ready(TIMEOUT_S)
    with pytest.raises(RemoteDeadlineError, match="status 504: expected an answer within 0.5 s"):
        client.search(["hang"], 1)
    begin = time.monotonic()
    with pytest.raises(TemporaryRemoteError):
        remote(timeout_s=2.0, retries=1000).search(["next"], 1)
    assert time.monotonic() - begin < 2.0 + 2.0  # the deadline and a late connection
    with pytest.raises(RemoteDeadlineError, match="to answer in time"):
        remote(timeout_s=0.2).search(["hang"], 1)  # the client's deadline before the server's
    assert httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 503
    server.send_signal(signal.SIGTERM)
    server.wait(TIMEOUT_S)


@pytest.mark.slow
def test_under_overload_everyone_gets_through_in_the_end(port, remote, start):
    start(seconds=0.02, waiting=4)
    remote().wait_until_ready(TIMEOUT_S)
    clients = Clients(remote, 32, most=3, timeout_s=TIMEOUT_S, retries=1000)
    clients.wait_for_answers(3)
    clients.stop()
    assert clients.errors == []
    metrics = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'at2po_retrieval_request_seconds_count{status="503"}' in metrics


@pytest.mark.slow
def test_few_descriptors_and_many_silent_connections_lock_nobody_out(port, remote, tmp_path):
    """As many descriptors as 100 bear the index, the log and about 30 connections."""
    log = tmp_path / "log"
    words = f"exec {sys.executable} {SERVER} {port} f00 0.001 30 999"
    with log.open("wb") as file:
        server = subprocess.Popen(["sh", "-c", f"ulimit -n 100; {words}"], stderr=file)
    silent = []
    try:
        remote().wait_until_ready(TIMEOUT_S)
        for i in range(300):
            silent.append(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
            if i % 20 == 0:
                client = remote(timeout_s=TIMEOUT_S)
                assert client.search([f"q{i}"], 2) == expected(f"q{i}", 2)
        assert remote().identity().index_hash == "f00"
    finally:
        for each in silent:
            each.close()
        server.terminate()
        server.wait(TIMEOUT_S)
    assert len(log.read_text().splitlines()) < 100


@pytest.mark.slow
def test_a_stopped_server_answers_what_it_has_accepted(port, remote, start):
    server = start(seconds=2.0)
    client = remote(retries=0)
    client.wait_until_ready(TIMEOUT_S)
    with ThreadPoolExecutor(3) as pool:
        replies = [pool.submit(client.search, ["late 0"], 2)]
        wait_for(lambda: metric(port, "busy_seconds") > 0, TIMEOUT_S)
        replies += [pool.submit(client.search, [f"late {i}"], 2) for i in (1, 2)]
        wait_for(lambda: metric(port, "waiting_queries") == 2, TIMEOUT_S)
        server.send_signal(signal.SIGTERM)
        assert [r.result() for r in replies] == [expected(f"late {i}", 2) for i in range(3)]
    assert server.wait(TIMEOUT_S) in (0, -signal.SIGTERM)
    with pytest.raises(TemporaryRemoteError):
        client.search(["too late"], 1)


def test_a_server_that_cannot_start_says_why(port, monkeypatch):
    def broken(name: str) -> Echo:
        raise OSError(f"no index {name}")

    options = ServeOptions(index="bm25:nowhere", port=port)
    with pytest.raises(ServerStartError, match="bm25:nowhere could not be opened: no index"):
        serve(options, broken)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ServerStartError, match=f"expected to listen at 127.0.0.1:{port}"):
            serve(options, lambda name: Echo())
    for host in ("no such host", "x" * 70, "999.1.1.1"):
        odd = ServeOptions(index="bm25:nowhere", host=host, port=port)
        with pytest.raises((ServerStartError, SearchArgumentError), match="expected"):
            serve(odd, lambda name: Echo())
    monkeypatch.setenv("AT2PO_SERVER_TOKEN", "")
    with pytest.raises(ServerStartError, match="AT2PO_SERVER_TOKEN, found an empty value"):
        serve(options, lambda name: Echo())
    for odd_token in ("geheim\n", "two words", "\udcff"):
        monkeypatch.setenv("AT2PO_SERVER_TOKEN", odd_token)
        with pytest.raises(ServerStartError, match="visible characters in AT2PO_SERVER_TOKEN"):
            serve(options, lambda name: Echo())


@pytest.mark.parametrize(
    "change",
    [
        {"port": 99_999},
        {"port": -1},
        {"cache_gib": float("nan")},
        {"cache_gib": 0.0},
        {"deadline_s": float("inf")},
        {"head_timeout_s": 0.0},
        {"max_connections": 0},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_before_anything_is_opened(port, change):
    options = ServeOptions(**{"index": "bm25:nowhere", "port": port, **change})
    with pytest.raises(SearchArgumentError, match="expected"):
        serve(options, lambda name: pytest.fail("opened"))


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("127.0.0.9", False), ("::1", False), ("0.0.0.0", True), ("", True)],
)
def test_who_lets_others_in_without_a_token_is_warned(host, warned, caplog, monkeypatch):
    monkeypatch.delenv("AT2PO_SERVER_TOKEN", raising=False)
    with pytest.raises(SearchArgumentError):
        serve(ServeOptions(index="bm25:nowhere", host=host, port=-1), lambda name: None)
    assert ("can search" in caplog.text) == warned


def test_a_cache_needs_the_hash_of_the_index(port, tmp_path):
    options = ServeOptions(index="bm25:nameless", port=port, cache=tmp_path)
    with pytest.raises(ServerStartError, match="expected an index with a hash for the cache"):
        serve(options, lambda name: Echo())
