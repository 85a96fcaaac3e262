"""What the engine knows of every running request, one array per fact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from at2po_agents.engines.base import Request


class BatchState:
    """The running requests as rows 0..len-1, so that a step needs no loop over them.

    Args:
        capacity: most rows.

    Attributes:
        requests: the request of each row.
        ids: [capacity, width] tokens known so far: context, then sampled.
        logprobs: [capacity, width] of the sampled tokens, at the same places.
        entropies: [capacity, width] of the distributions they were drawn from, where computed.
        known: [capacity] how many ids are known.
        stored: [capacity] how many of them, from the left, have keys and values stored.
        prompt: [capacity] how many of them are context.
        limit: [capacity] value of `known` at which the turn is cut.
        stop: [capacity] number of the row's stop strings.
        seed: [capacity] seed of the row's random stream.
        temperature: [capacity] sampling temperature, 0 for greedy.
    """

    def __init__(self, capacity: int) -> None:
        self.requests: list[Request] = []
        self.ids = np.zeros((capacity, 0), dtype=np.int64)
        self.logprobs = np.zeros((capacity, 0), dtype=np.float64)
        self.entropies = np.zeros((capacity, 0), dtype=np.float64)
        self.known = np.zeros(capacity, dtype=np.int64)
        self.stored = np.zeros(capacity, dtype=np.int64)
        self.prompt = np.zeros(capacity, dtype=np.int64)
        self.limit = np.zeros(capacity, dtype=np.int64)
        self.stop = np.zeros(capacity, dtype=np.int64)
        self.seed = np.zeros(capacity, dtype=np.uint64)
        self.temperature = np.zeros(capacity, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, request: Request, ids: NDArray[np.int64], stored: int, stop: int) -> None:
        """Start a row whose first `stored` tokens have their keys and values."""
        row, n = len(self), len(ids)
        self._widen(n + request.max_new_tokens)
        self.requests.append(request)
        self.ids[row, :n] = ids
        self.known[row] = self.prompt[row] = n
        self.stored[row] = stored
        self.limit[row] = n + request.max_new_tokens
        self.stop[row] = stop
        self.seed[row] = request.seed
        self.temperature[row] = request.temperature

    def append(
        self,
        ids: NDArray[np.int64],
        logprobs: NDArray[np.float64],
        entropies: NDArray[np.float64] | float = 0.0,
    ) -> None:
        """Add one sampled token to every row, whose previous token has just been stored."""
        rows = np.arange(len(self))
        self.ids[rows, self.known[rows]] = ids
        self.logprobs[rows, self.known[rows]] = logprobs
        self.entropies[rows, self.known[rows]] = entropies
        self.known[rows] += 1
        self.stored[rows] += 1

    def remove(self, row: int) -> None:
        """Drop a row; the last row takes its place."""
        last = len(self) - 1
        self.requests[row] = self.requests[last]
        self.requests.pop()
        for array in self._arrays():
            array[row] = array[last]

    def _arrays(self) -> tuple[NDArray[np.generic], ...]:
        return (
            *(self.ids, self.logprobs, self.entropies, self.known, self.stored),
            *(self.prompt, self.limit, self.stop, self.seed, self.temperature),
        )

    def _widen(self, length: int) -> None:
        width = self.ids.shape[1]
        if length > width:
            more = ((0, 0), (0, max(length, 2 * width) - width))
            self.ids, self.logprobs = np.pad(self.ids, more), np.pad(self.logprobs, more)
            self.entropies = np.pad(self.entropies, more)
