"""One connection of a client that may be slow, silent, broken or hostile."""

from __future__ import annotations

import asyncio
import heapq
import json
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from retrieval.errors import SearchArgumentError
from retrieval.http.errors import ServerStartError

_SLOWEST_READER = 2**20  # bytes per second that a client must read of a reply
_MOST_UNREAD = 256 * 2**20  # bytes of replies that all clients together have not read yet
_LAST_WORDS_S = 5.0  # how long a stopping server waits for replies to be read
_FILES = 48  # descriptors of everything else: index, cache, log
_BACKLOG = 1024  # connections that wait to be accepted; clients beyond try again after a second
_FEWEST = 16  # connections below which serving makes no sense


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """How many connections there may be, and how long each may take.

    A connection beyond `max_connections` takes the place of the one that has waited longest for a
    client to send a whole request. Where all are being answered there is room for an eighth more,
    which get a 503; health and metrics are answered there too.

    Attributes:
        max_connections: Most connections, >= 1.
        head_timeout_s: Seconds from the first byte of a request (from the connection, if it is the
            first one) to the end of its head, > 0.
        reply_timeout_s: Seconds to read a reply, besides one for each MiB, > 0.
        ended: Called with the reason where a connection is ended before its client does.
    """

    max_connections: int = 1024
    head_timeout_s: float = 10.0
    reply_timeout_s: float = 30.0
    ended: Callable[[str], object] = lambda reason: None

    def __post_init__(self) -> None:
        if self.max_connections < 1 or not 0 < self.head_timeout_s <= 3600:
            raise SearchArgumentError(
                "expected max_connections >= 1 and 0 < head_timeout_s <= 3600, found "
                f"{self.max_connections} and {self.head_timeout_s}"
            )


def fitting(most: int) -> tuple[int, int]:
    """Fit connections into the descriptors that this process may have, after asking for more.

    Args:
        most: Connections wished for.

    Returns:
        Most connections, and the backlog.

    Raises:
        ServerStartError: If there is no room for a few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * most + _FILES + 8 * _BACKLOG
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == resource.RLIM_INFINITY else soft - _FILES
    if room < 2 * _FEWEST:
        raise ServerStartError(
            f"expected room for {_FILES + 2 * _FEWEST} open files, found a limit of {soft}; raise "
            "it with `ulimit -n`"
        )
    # Up to three backlogs are accepted before the first of them is looked at, or closed.
    backlog = min(_BACKLOG, room // 8)
    return min(most, (room - 3 * backlog) * 7 // 8), backlog


class Connection(H11Protocol):
    """Uvicorn's connection, with an end to all waiting and errors in the protocol's own form.

    h11 bounds the size of a head (16 KiB), the application the size and time of a body and of the
    search; here are the time of a head, the time of reading a reply, and the number of connections.
    """

    def __init__(self, *args: Any, bounds: ConnectionBounds, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bounds = bounds
        self._served, self._half_closed, self._spoke = False, False, False
        self._since = self.loop.time()  # when it began to wait for its client
        self._head_timer: asyncio.TimerHandle | None = None
        self._reply_timer: asyncio.TimerHandle | None = None

    @property
    def _answering(self) -> bool:
        """Whether there is a whole request without a whole reply."""
        return self._replying and not self.cycle.more_body

    @property
    def _waits_for_client(self) -> bool:
        """Whether the client has to send or to read before the connection continues."""
        return not self._answering or self.flow.write_paused

    @property
    def _replying(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head, where there is room for another connection."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self._bounds.head_timeout_s, self._head_is_late)
        self._admit()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        self._stop_head_timer()
        if self._reply_timer is not None:
            self._reply_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take what came; the clock of a head runs from its first byte to its end."""
        self._spoke = True
        super().data_received(data)
        if self._replying or self.transport.is_closing():
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._bounds.head_timeout_s, self._head_is_late)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a client that has sent a whole request and will send no more."""
        self._half_closed = True
        return self._answering

    def on_response_complete(self) -> None:
        """See to it that the reply is read, then take the next request."""
        self._served, self._since = True, self.loop.time()
        unread = self.transport.get_write_buffer_size()
        if unread:
            self._see_to_reading(self._bounds.reply_timeout_s + unread / _SLOWEST_READER)
            self._bound_unread()
        super().on_response_complete()
        if self._half_closed and not self._replying:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(
            400,
            "malformed_request",
            "expected an HTTP/1.1 request with a head of at most 16 KiB, found something else; "
            "fix: send a request as curl does",
        )
        self._bounds.ended("malformed")

    def shutdown(self) -> None:
        """Answer what was received wholly; everything else ends now."""
        if self._answering:
            self.cycle.keep_alive = False
            return
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._see_to_reading(_LAST_WORDS_S)

    def _should_upgrade(self) -> bool:
        return False  # asked for another protocol, a server may continue with this one

    def _admit(self) -> None:
        """Make room for this connection, or refuse it."""
        bounds = self._bounds
        if len(self.connections) <= bounds.max_connections:
            return
        there = [each for each in self._all() if not each.transport.is_closing()]
        if len(there) <= bounds.max_connections:
            return
        waiting = [each for each in there if each._waits_for_client and each is not self]
        unserved = [each for each in waiting if not each._served]
        if waiting:
            # Several at a time, so that a flood of connections is not looked through for each.
            most = max(1, bounds.max_connections // 16) if unserved else 1
            for each in heapq.nsmallest(most, unserved or waiting, key=lambda one: one._since):
                each._drop("evicted")
        elif len(there) <= bounds.max_connections + max(4, bounds.max_connections // 8):
            self.app_state = {**self.app_state, "spare": True}
        else:
            detail = "expected fewer connections, found no room for another; try again later"
            self._refuse(503, "overloaded", detail)
            bounds.ended("refused")

    def _all(self) -> list[Connection]:
        return [each for each in self.connections if isinstance(each, Connection)]

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._replying or self.transport.is_closing():
            return
        if self._spoke and not self._served:
            seconds = f"{self._bounds.head_timeout_s:g} s"
            detail = f"expected a whole request head within {seconds}, found a part; send it faster"
            self._refuse(408, "slow_head", detail)
            self._bounds.ended("slow_head")
        else:
            self._drop("slow_head")

    def _bound_unread(self) -> None:
        """End the slowest readers where all have left too much unread."""
        readers = [each for each in self._all() if each.transport.get_write_buffer_size()]
        readers.sort(key=lambda each: each._since)
        unread = sum(each.transport.get_write_buffer_size() for each in readers)
        while unread > _MOST_UNREAD and len(readers) > 1:
            slowest = readers.pop(0)
            unread -= slowest.transport.get_write_buffer_size()
            slowest._drop("slow_reader")

    def _see_to_reading(self, seconds: float) -> None:
        def end() -> None:
            self._reply_timer = None
            if self.transport.get_write_buffer_size():
                self._drop("slow_reader")

        if self._reply_timer is not None:
            self._reply_timer.cancel()
        self._reply_timer = self.loop.call_later(seconds, end)

    def _drop(self, reason: str) -> None:
        """End the connection without a reply."""
        self._bounds.ended(reason)
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait until all is read
        else:
            self.transport.close()

    def _refuse(self, status: int, error: str, detail: str) -> None:
        """Reply past h11, which may be in any state, and end the connection."""
        if not (self._replying and self.cycle.response_started):
            body = json.dumps({"error": error, "detail": detail}).encode()
            head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        if self._replying:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
