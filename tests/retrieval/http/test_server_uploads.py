"""Bodies on their way in: bounded each and all together, and small ones always have room."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")

from starlette.requests import ClientDisconnect, Request

from retrieval.http.server import app as server
from retrieval.http.server.refusals import RefusedError
from retrieval.http.server.uploads import Uploads

MOST = 2**17


class Client:
    """Sends a body piece by piece, each when it is asked for; a None breaks off, an int waits."""

    def __init__(self, *pieces: bytes | None | int) -> None:
        self.pieces, self.sent = list(pieces), 0
        self.request = Request({"type": "http", "method": "POST", "headers": []}, self._receive)

    async def _receive(self):
        piece = self.pieces.pop(0)
        if isinstance(piece, int):
            await asyncio.sleep(piece)
            piece = b""
        if piece is None:
            return {"type": "http.disconnect"}
        self.sent += 1
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}


def read(uploads: Uploads, *clients: Client, seconds: float = 60.0):
    async def all_at_once():
        until = asyncio.get_running_loop().time() + seconds
        bodies = (uploads.body(each.request, until) for each in clients)
        return await asyncio.gather(*bodies, return_exceptions=True)

    return asyncio.run(all_at_once())


def test_a_body_comes_whole_and_leaves_nothing_behind():
    uploads = Uploads(MOST)
    assert read(uploads, Client(b"ab", b"", b"x" * (MOST - 2))) == [b"ab" + b"x" * (MOST - 2)]
    assert uploads._held == 0


@pytest.mark.parametrize(("pieces", "sent"), [(2, 2), (8, 8), (100, 8)])
def test_a_body_that_is_too_large_is_read_for_a_while_and_never_kept(pieces, sent):
    uploads, client = Uploads(MOST), Client(*[b"x" * (MOST // 2 + 1)] * pieces)
    (error,) = read(uploads, client)
    assert (error.status, client.sent, uploads._held) == (413, sent, 0)


def test_bodies_that_break_off_or_come_late_leave_nothing_behind():
    uploads = Uploads(MOST)
    (error,) = read(uploads, Client(b"x" * MOST, None))
    assert isinstance(error, ClientDisconnect)
    (error,) = read(uploads, Client(b"x" * MOST, 3600), seconds=0.01)
    assert isinstance(error, RefusedError) and error.status == 408
    assert uploads._held == 0


def test_all_large_bodies_together_have_a_bound_and_small_ones_fit_beside():
    uploads = Uploads(MOST)
    large = [Client(b"x" * MOST, 1, b"") for _ in range(200)]
    uploads_of_all = read(uploads, *large, *(Client(b"y" * 2**16) for _ in range(50)))
    kinds = [each if isinstance(each, bytes) else each.status for each in uploads_of_all]
    assert kinds[200:] == [b"y" * 2**16] * 50
    assert kinds.count(503) == 168 and kinds[:200].count(b"x" * MOST) == 32
    assert uploads._held == 0


def test_millions_of_wrong_queries_are_one_error():
    """With an error for each, a request of 4 MB took 13 s and gigabytes."""
    with pytest.raises(ValidationError) as caught:
        server._Query.model_validate_json(b'{"queries": [' + b"1," * 2_000_000 + b"1]}")
    assert caught.value.error_count() == 1
