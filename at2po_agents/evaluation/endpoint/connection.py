"""A connection that another thread can abort: the only deadline that always holds."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

LARGEST_REPLY = 1 << 25
"""Bytes of a reply that are read; turns are far smaller."""

# Compressed replies have no bound that holds before they are decompressed.
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class Answer(NamedTuple):
    """A whole reply."""

    status: int
    headers: Mapping[str, str]
    text: str


class Connection:
    """One connection at a time to one address, for one thread at a time.

    The client's own timeouts begin again with every byte that arrives, so a server that drips its
    head or body would never run into them.

    Args:
        client: An `httpx2.Client` with one connection.
        error: Raised where it is aborted, or a reply is too large.
    """

    def __init__(self, client: Any, error: type[Exception]) -> None:
        self.client, self._error = client, error
        self._stream: Any = None
        self._reason = ""

    @property
    def usable(self) -> bool:
        """Whether it was never aborted."""
        return not self._reason

    def post(self, url: str, content: bytes, timeout_s: float) -> Answer:
        """Send a request once, and read its reply as long as the time allows.

        Args:
            url: Where to.
            content: JSON.
            timeout_s: For connection, request, head and body together.

        Returns:
            The reply, whatever its status.

        Raises:
            Exception: As `error`, if the time is over, the reply is larger than `LARGEST_REPLY`, or
                the connection was aborted; and what httpx2 raises on other errors.
        """
        received = bytearray()
        with (
            self._within(timeout_s),
            self.client.stream(
                "POST", url, content=content, headers=_HEADERS, extensions={"trace": self._trace}
            ) as reply,
        ):
            if (coding := reply.headers.get("content-encoding", "identity")) != "identity":
                raise self._error(f"expected a reply that is not compressed, found {coding:.80}")
            for chunk in reply.iter_bytes():
                received += chunk
                if len(received) > LARGEST_REPLY:
                    raise self._error(f"no end of the reply after {LARGEST_REPLY} bytes")
            text = received.decode("utf-8", "replace")
            return Answer(reply.status_code, reply.headers, text)

    def abort(self, reason: str) -> None:
        """End the request under way, from any thread."""
        self._reason = reason
        if self._stream is not None:
            with suppress(OSError):  # it has ended by itself
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _within(self, timeout_s: float) -> Iterator[None]:
        clock = threading.Timer(timeout_s, self.abort, [f"no whole reply within {timeout_s} s"])
        clock.daemon = True
        clock.start()
        raised: Exception | None = None
        try:
            yield
        except Exception as error:
            raised = error
        finally:
            clock.cancel()
            clock.join()
        if self._reason:  # what was read until then may look whole
            raise self._error(self._reason) from raised
        if raised is not None:
            raise raised

    def _trace(self, event: str, facts: Mapping[str, Any]) -> None:
        """Keep the connection that is made; httpx2 tells of each."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = facts["return_value"]
            if self._reason:
                self.abort(self._reason)
