"""The bodies of requests while they arrive: bounded in bytes and time, each and all together."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from retrieval.http.server.refusals import AGAIN, CLOSE, RefusedError

_SMALL = 2**16  # bytes of a body that always have room
_TOGETHER = 16  # times the largest body: bytes of all bodies beyond that
_READ_ON = 4  # times the largest body: what is read of one that is too large, so that a reply fits


class Uploads:
    """Reads bodies, and knows how much of them it holds.

    Args:
        max_body_bytes: Most bytes of a body, >= 1.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._most, self._held = max_body_bytes, 0

    async def body(self, request: Request, until: float) -> bytes:
        """Read the body of a request.

        Args:
            request: The request.
            until: Time of the event loop by which it must be there.

        Raises:
            RefusedError: If it is too large or too slow, or there is no room for it.
            ClientDisconnect: If the client goes away.
        """
        body, held = bytearray(), 0
        try:
            async with asyncio.timeout_at(until):
                read = 0
                async for chunk in request.stream():
                    read += len(chunk)
                    if read > self._most:
                        body.clear()
                        if read > _READ_ON * self._most:
                            break
                        continue
                    body += chunk
                    more = max(0, len(body) - _SMALL) - held
                    held, self._held = held + more, self._held + more
                    if self._held > _TOGETHER * self._most:
                        detail = "expected room for a large body, found none; try again later"
                        raise RefusedError(503, "overloaded", detail, AGAIN | CLOSE)
        except TimeoutError:
            detail = "expected the whole body before the deadline, found a part; send it faster"
            raise RefusedError(408, "slow_body", detail, CLOSE) from None
        finally:
            self._held -= held
        if read > self._most:
            raise RefusedError(
                413,
                "body_too_large",
                f"expected a body of at most {self._most} bytes, found more; send fewer queries at "
                "a time",
                CLOSE,
            )
        return bytes(body)
