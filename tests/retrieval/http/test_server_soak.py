"""Sound clients notice nothing of rude ones, and these leave nothing behind."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'at2po[serve]'")

from retrieval.http.client import RemoteRetriever
from retrieval.http.server.logs import few_alike
from retrieval.http.server.run import _CHATTY
from tests.retrieval.http.live_server import Echo, Live, get, live, parse
from tests.retrieval.http.rude_clients import KINDS, repeat, rude

SECONDS = float(os.environ.get("AT2PO_SOAK_SECONDS", "5"))
CLIENTS = 16


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


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_rude_client_leaves_the_server_well(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.retrieval.http.rude_clients._HELD", 20)
    with live(bounds={"head_timeout_s": 0.5, "max_connections": 8}) as server:
        over, done = threading.Event(), Counter[str]()
        timer = threading.Timer(0.3, over.set)
        timer.start()
        repeat(name, server.port, 0, over, done)
        timer.join()
        assert done[name] >= 1
        assert parse(server.say(get("/health")))[0] == 200
