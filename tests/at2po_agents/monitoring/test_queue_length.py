"""Lengths of queues: means over time, and what several queues come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.monitoring.queue_length import QueueLength, QueueWatch, summarise


class Clock:
    """Stands where a test puts it."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1))
def test_a_length_counts_as_long_as_it_lasts(held: list[tuple[int, int]]) -> None:
    clock = Clock()
    watch = QueueWatch("jobs", clock)
    for length, seconds in held:
        watch.note(length)
        clock.now += seconds
    total = sum(length * seconds for length, seconds in held)
    seconds = sum(seconds for _, seconds in held)
    assert watch.take() == ("jobs", seconds, total, max(length for length, _ in held))


def test_a_queue_keeps_its_length_from_one_time_to_the_next() -> None:
    clock = Clock()
    watch = QueueWatch("jobs", clock)
    watch.note(7)
    watch.note(3)
    clock.now += 2
    assert watch.take() == ("jobs", 2, 6, 7)
    clock.now += 1
    assert watch.take() == ("jobs", 1, 3, 3)


def test_queues_of_a_kind_are_summed_up_by_their_time() -> None:
    lengths = [
        QueueLength("tools", 1.0, 4.0, 5),
        QueueLength("tools", 3.0, 4.0, 2),
        QueueLength("jobs", 2.0, 1.0, 1),
        QueueLength("trees", 0.0, 0.0, 0),
    ]
    assert summarise(lengths) == pytest.approx(
        {"queue_tools": 2.0, "queue_tools_longest": 5, "queue_jobs": 0.5, "queue_jobs_longest": 1}
    )
    assert summarise([]) == {}
