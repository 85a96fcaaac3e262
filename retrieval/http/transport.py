"""The network under the client: a request has one deadline, and its reply a largest size."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore2
import httpx2

from retrieval.http.errors import ReplyFormatError

_CONNECT_S = 2.0  # longest wait for a connection to one address


def client_headers(token: str | None) -> httpx2.Headers:
    """Return what a client sends with every request; a token, if any, goes out in UTF-8."""
    # An encoding would allow a short reply to become a long one.
    headers = httpx2.Headers({"Accept-Encoding": "identity"}, encoding="utf-8")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


class BoundedTransport(httpx2.BaseTransport):
    """Sends requests whose timeout is for all that they do, and takes replies up to a size.

    Timeouts of httpx2 itself begin again with every byte. A reply is read by the thread that sent
    its request; none that is encoded is taken.

    Args:
        max_bytes: Most bytes of a reply, >= 1.
        verify: Whether to check certificates.
        inner: Replaces the network, for tests and for Unix sockets.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        verify: bool,
        inner: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes, self._deadline = max_bytes, _Deadline(clock)
        self._inner = inner or _network(self._deadline, verify)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; its reply is read later."""
        self._deadline.start(request.extensions["timeout"]["read"])
        response = self._inner.handle_request(request)
        where = f"{request.method} {request.url}"
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise ReplyFormatError(
                f"expected a reply without an encoding to {where}, found {encoding!r:.100}; fix: "
                "have the server obey 'Accept-Encoding: identity'"
            )
        response.stream = _BoundedStream(response.stream, self._deadline, self._max_bytes, where)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class _Deadline(threading.local):
    """When this thread's request has to be over, on a clock of seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._until = clock, 0.0

    def start(self, timeout_s: float) -> None:
        self._until = self._clock() + timeout_s

    def left(self, late: type[Exception]) -> float:
        """Return the seconds that are left; raise an error of the given kind if there are none."""
        left = self._until - self._clock()
        if left <= 0:
            raise late("the deadline is over")
        return left


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, stream: Any, deadline: _Deadline, max_bytes: int, where: str) -> None:
        self._stream, self._deadline = stream, deadline
        self._max_bytes, self._where = max_bytes, where

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for chunk in self._stream:
            self._deadline.left(httpx2.ReadTimeout)  # other transports may not see to it
            read += len(chunk)
            if read > self._max_bytes:
                raise ReplyFormatError(
                    f"expected a reply of at most {self._max_bytes} bytes to {self._where}, found "
                    "more; fix: ask for fewer queries or passages at a time, or raise "
                    "max_reply_bytes"
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _network(deadline: _Deadline, verify: bool) -> httpx2.HTTPTransport:
    # Reading certificates takes some 20 ms: once for the pool made there and for ours.
    context = httpx2.create_ssl_context(verify=verify, trust_env=False)
    transport = httpx2.HTTPTransport(verify=context, trust_env=False)
    transport._pool = httpcore2.ConnectionPool(
        ssl_context=context,
        max_connections=None,
        max_keepalive_connections=256,
        keepalive_expiry=5.0,
        network_backend=_Network(deadline),
    )
    return transport


class _Network(httpcore2.SyncBackend):
    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name that can be looked up
            raise httpcore2.ConnectError(str(error)) from error
        problem: Exception = httpcore2.ConnectError(f"no address of {host}")
        for address in dict.fromkeys(str(each[4][0]) for each in found):
            left = min(self._deadline.left(httpcore2.ConnectTimeout), _CONNECT_S)
            try:
                stream = super().connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
            else:
                return _Stream(stream, self._deadline)
        raise problem


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        wire: socket.socket = self._stream.get_extra_info("socket")
        view = memoryview(buffer)
        while view:
            wire.settimeout(self._deadline.left(httpcore2.WriteTimeout))
            try:
                view = view[wire.send(view) :]
            except TimeoutError as error:
                raise httpcore2.WriteTimeout(str(error)) from error
            except OSError as error:
                raise httpcore2.WriteError(str(error)) from error

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._deadline.left(httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
