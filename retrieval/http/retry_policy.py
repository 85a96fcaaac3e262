"""The loop that retries requests over HTTP: exponential backoff, `Retry-After`, deadlines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

import numpy as np

_log = logging.getLogger(__name__)

_LONGEST_RETRY_AFTER_S = 600.0  # a server that asks for more refuses
_TEMPORARY = (408, 409, 429)  # Source: openai-python 1.0, `BaseClient._should_retry`; and every 5xx

_Reply = TypeVar("_Reply")


class TemporaryError(Exception):
    """A request failed in a way that may pass.

    Attributes:
        retry_after_s: Pause that the server asked for, in seconds, >= 0.
        attempts: How often the request was sent, once `RetryPolicy.call` has given up.
    """

    retry_after_s = 0.0
    attempts = 0


class RetryPolicy:
    """Exponential backoff with jitter, on top of what the server asks for; threads may share it.

    Args:
        retries: Attempts after the first one, >= 0.
        first_pause_s: Pause after the first attempt; it doubles from one to the next.
        longest_pause_s: Pause that it stops to grow at.
        seed: Seed of the jitter, which makes a pause 0.5 to 1.5 times as long.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        *,
        retries: int,
        first_pause_s: float,
        longest_pause_s: float,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._retries, self._first_s, self._longest_s = retries, first_pause_s, longest_pause_s
        self._clock, self._sleep = clock, sleep
        self._jitter, self._lock = np.random.default_rng(seed), threading.Lock()

    def call(
        self,
        send: Callable[[], _Reply],
        *,
        deadline: float = float("inf"),
        final: tuple[type[TemporaryError], ...] = (),
    ) -> _Reply:
        """Call until it raises no `TemporaryError`, or trying again is of no use.

        Args:
            send: Sends the request once.
            deadline: Time of the clock at which no attempt begins any more.
            final: Errors after which there is no other attempt.

        Returns:
            What `send` returns.

        Raises:
            TemporaryError: That of the last attempt.
        """
        attempts = 0
        while True:
            try:
                return send()
            except TemporaryError as error:
                attempts += 1
                error.attempts = attempts
                wait_s = error.retry_after_s + self._pause_s(attempts)
                refused = isinstance(error, final) or error.retry_after_s > _LONGEST_RETRY_AFTER_S
                late = self._clock() + wait_s >= deadline
                if attempts > self._retries or refused or late:
                    raise
                _log.debug("%s; trying again in %.1f s", error, wait_s)
            self._sleep(wait_s)

    def _pause_s(self, attempts: int) -> float:
        with self._lock:
            jitter = float(self._jitter.uniform(0.5, 1.5))
        return jitter * min(self._first_s * 2.0 ** min(attempts - 1, 16), self._longest_s)


def is_temporary(status: int) -> bool:
    """Say whether the same request may have another status later."""
    return status >= 500 or status in _TEMPORARY


def retry_after_s(header: str) -> float:
    """Return the seconds that a `Retry-After` asks for, by a number or a date; 0 if by neither."""
    try:
        return max(0.0, float(header))  # NaN is no wait
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # no date, or none that there is
        return 0.0
