"""Requests and tokens a minute, kept to exactly, by any number of threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 60.0


@dataclass(slots=True)
class Slot:
    """A request's place in time.

    Attributes:
        at: When it may be sent, in seconds of the limiter's clock.
        tokens: Tokens that it counts for.
    """

    at: float
    tokens: int


class RateLimiter:
    """Lets requests through so that no 60 seconds see more of them, or of their tokens.

    Args:
        requests: Most requests in 60 seconds; 0 for no limit.
        tokens: Most tokens in 60 seconds; 0 for no limit. A request that needs more than that
            alone waits for an empty window.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        requests: int = 0,
        tokens: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.requests, self.tokens = requests, tokens
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._slots: deque[Slot] = deque()  # of the last 60 seconds and of those to come, by time

    def wait(self, tokens: int) -> Slot:
        """Wait until a request may be sent; those that asked first go first.

        Args:
            tokens: What it will probably need, >= 0.

        Returns:
            Its slot, whose `tokens` are to be corrected once they are known.
        """
        with self._lock:
            slot = Slot(self._earliest(tokens), tokens)
            if self.requests or self.tokens:
                self._slots.append(slot)
        if (left := slot.at - self._clock()) > 0:
            self._sleep(left)
        return slot

    def _earliest(self, tokens: int) -> float:
        """When a request fits in behind all others."""
        at = max(self._clock(), self._slots[-1].at if self._slots else 0.0)
        while self._slots:
            if self._slots[0].at + _WINDOW_S <= at:  # rounding: not at - 60
                self._slots.popleft()
                continue
            full = self.requests and len(self._slots) >= self.requests
            spent = sum(slot.tokens for slot in self._slots)
            if not full and not (self.tokens and spent + tokens > self.tokens):
                break
            at = self._slots[0].at + _WINDOW_S
        return at
