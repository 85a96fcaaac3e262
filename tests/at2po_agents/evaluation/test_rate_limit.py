from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.evaluation.endpoint.rate_limit import RateLimiter
from tests.http_double import Server


def limiter(clock: Server, requests: int = 0, tokens: int = 0) -> RateLimiter:
    return RateLimiter(requests, tokens, clock=lambda: clock.now, sleep=clock.sleep)


@given(
    requests=st.integers(0, 4),
    tokens=st.integers(0, 50),
    wanted=st.lists(
        st.tuples(st.floats(0, 40), st.integers(0, 60), st.integers(0, 60)), max_size=30
    ),
)
def test_no_minute_sees_more_than_is_allowed(
    requests: int, tokens: int, wanted: list[tuple[float, int, int]]
) -> None:
    clock = Server()
    limited = limiter(clock, requests, tokens)
    sent = []
    for idle, guess, actual in wanted:
        clock.now += idle
        slot = limited.wait(guess)
        assert slot.at <= clock.now
        # What it turned out to need may be less: then there is room for others.
        slot.tokens = min(guess, actual)
        sent.append(slot)
    for i, first in enumerate(sent):
        minute = [slot for slot in sent[i:] if slot.at < first.at + 60]
        assert not requests or len(minute) <= requests
        assert not tokens or len(minute) == 1 or sum(slot.tokens for slot in minute) <= tokens


def test_a_request_waits_no_longer_than_it_must() -> None:
    clock = Server()
    limited = limiter(clock, requests=2)
    assert [limited.wait(0).at for _ in range(5)] == [0, 0, 60, 60, 120]
    free = limiter(clock)
    assert free.wait(10**9).at == clock.now


def test_tokens_that_were_not_needed_are_given_back() -> None:
    clock = Server()
    limited = limiter(clock, tokens=100)
    slot = limited.wait(90)
    slot.tokens = 20
    assert limited.wait(80).at == 0
    assert limited.wait(20).at == 60


def test_a_request_over_the_limit_goes_alone() -> None:
    clock = Server()
    limited = limiter(clock, tokens=100)
    assert [limited.wait(n).at for n in (500, 10, 500)] == [0, 60, 120]


def test_threads_share_the_limit() -> None:
    clock = Server()
    clock.sleep = lambda seconds: None  # type: ignore[method-assign]
    limited = limiter(clock, requests=3)
    slots: list[float] = []

    def run() -> None:
        for _ in range(10):
            slots.append(limited.wait(0).at)

    running = [threading.Thread(target=run) for _ in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert sorted(slots) == [60 * (i // 3) for i in range(80)]
