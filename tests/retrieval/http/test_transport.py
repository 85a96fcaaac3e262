"""The client's deadline against servers that send a little, again and again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from retrieval.http.client import RemoteRetriever
from retrieval.http.errors import RemoteDeadlineError, ReplyFormatError, ServerUnavailableError
from tests.raw_server import raw_server

BODY = b'{"result": [[]]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n"
# Every one of these ends in a right answer, after far more time than the client has.
DRIPS = {
    "head": [b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 2000, b"\r\nContent-Length: 16\r\n\r\n" + BODY],
    "headers": [HEAD, *[b"X: y\r\n"] * 2000, b"\r\n" + BODY],
    "hints": [*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 2000, HEAD + b"\r\n" + BODY],
    "body": [HEAD.replace(b"16", b"2016") + b"\r\n", *[b" "] * 2000, BODY],
    "chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[b"1\r\n \r\n"] * 2000,
        b"10\r\n" + BODY + b"\r\n0\r\n\r\n",
    ],
    "chunk extension": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10;",
        *[b"x"] * 2000,
        b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    ],
}


@contextmanager
def client(port: int, **options) -> Iterator[RemoteRetriever]:
    remote = RemoteRetriever(f"http://127.0.0.1:{port}", **options)
    try:
        yield remote
    finally:
        remote.close()


@pytest.mark.parametrize("pieces", DRIPS.values(), ids=DRIPS)
def test_a_reply_that_drips_in_is_late(pieces):
    def drip(connection: socket.socket) -> None:
        connection.recv(2**16)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.01)

    with raw_server(drip) as port, client(port, timeout_s=0.3) as remote:
        with pytest.raises(RemoteDeadlineError, match="to answer in time"):
            remote.search(["a"], 1)


def test_the_same_reply_at_once_is_taken():
    def answer(connection: socket.socket) -> None:
        for pieces in DRIPS.values():
            connection.recv(2**16)
            connection.sendall(b"".join(pieces[:50] + pieces[-1:]).replace(b"2016", b"65"))

    with raw_server(answer) as port, client(port, timeout_s=20) as remote:
        assert [remote.search(["a"], 1) for _ in DRIPS] == [[[]]] * len(DRIPS)


def test_a_server_that_drips_out_of_its_ears_is_late():
    """It takes a large request in small sips, each of which is a success of the sender."""

    over = threading.Event()

    def sip(connection: socket.socket) -> None:
        while not over.wait(0.01):
            connection.recv(2**12)

    with raw_server(sip) as port, client(port, timeout_s=1.0) as remote:
        with pytest.raises(RemoteDeadlineError):
            remote.search(["x" * 2**25], 1)
        over.set()


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (b"\r\n", ReplyFormatError, "at most 1048576 bytes"),
        (b"X: ", ServerUnavailableError, "RemoteProtocolError"),
    ],
)
def test_a_head_or_body_without_an_end_is_refused(head, error, message):
    def flood(connection: socket.socket) -> None:
        connection.recv(2**16)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
        while True:
            connection.sendall(b"x" * 2**16)

    options = {"timeout_s": 60, "max_reply_bytes": 2**20, "retries": 0}
    with raw_server(flood) as port, client(port, **options) as remote:
        with pytest.raises(error, match=message):
            remote.search(["a"], 1)


def test_nobody_there_is_said_for_every_address():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for host in ("localhost", "127.0.0.1"):
            remote = RemoteRetriever(f"http://{host}:{port}", retries=0)
            with pytest.raises(ServerUnavailableError, match="ConnectError"):
                remote.search(["a"], 1)
            remote.close()
