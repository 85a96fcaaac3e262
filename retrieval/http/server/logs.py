"""A log that no client can fill."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MOST_PLACES = 1000


class FewAlike(logging.Filter):
    """Lets a warning or error through once in a while for each place in the code that writes it.

    The next one says how many were left out.

    Args:
        every_s: Seconds between two of a place, > 0.
        clock: Seconds, monotonic.
    """

    def __init__(self, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s, self._clock = every_s, clock
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether to write a line."""
        if record.levelno < logging.WARNING:
            return True
        # asyncio logs all its errors at one place; the first words tell them apart.
        place = (record.pathname, record.lineno, str(record.msg)[:30])
        now = self._clock()
        with self._lock:
            if place not in self._seen and len(self._seen) >= _MOST_PLACES:
                self._seen.clear()
            last, left_out = self._seen.get(place, (-self._every_s, 0))
            if now - last < self._every_s:
                self._seen[place] = last, left_out + 1
                return False
            self._seen[place] = now, 0
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like this were left out)"
            record.args = ()
        return True


@contextmanager
def few_alike(*names: str) -> Iterator[None]:
    """Thin out what these loggers write, as long as this lasts."""
    thinner, loggers = FewAlike(), [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(thinner)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(thinner)
