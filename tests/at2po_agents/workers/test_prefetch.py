"""Trees that are rolled out ahead, by workers that are as slow as a test says."""

from __future__ import annotations

from collections.abc import Callable, Collection

from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.rollout.expansion import Chains
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.ray.prefetch import Prefetcher
from at2po_agents.workers.ray.tasks import Task, Weights

COUNT, PARTS = 4, 2


class Workers:
    """Finish the oldest task that they are not told to be slow at, whenever somebody waits."""

    def __init__(self, slow: Collection[int]) -> None:
        self.slow, self.version = slow, 0
        self.tasks: list[Task] = []

    def submit(self, job: Job) -> list[Task]:
        parts = [Task(part, Weights(self.version, [])) for part in job.split(PARTS)]
        self.tasks += parts
        return parts

    def wait(self, ready: Callable[[], int], count: int) -> None:
        while ready() < count:
            waiting = [number for number, task in enumerate(self.tasks) if task.trees is None]
            number = next((n for n in waiting if n not in self.slow), waiting[0])
            task = self.tasks[number]
            task.trees = [RolloutTree(question, [1]) for question in task.job.questions]


def prefetcher(staleness: int, slow: Collection[int] = ()) -> tuple[Prefetcher, Workers]:
    workers, asked = Workers(slow), [0]

    def new_job(count: int) -> Job:
        first = asked[0]
        asked[0] += count
        return Job(tuple(range(first, first + count)), Chains(1))

    return Prefetcher(workers.submit, workers.wait, staleness, new_job), workers


def play(
    steps: int,
    staleness: int,
    slow: Collection[int] = (),
) -> tuple[list[list[int]], list[list[int]], int]:
    """Return the questions and ages of every step's trees, and how many were dropped."""
    trees, workers = prefetcher(staleness, slow)
    questions, ages = [], []
    for step in range(steps):
        workers.version = step
        taken, old = trees.take(step, COUNT)
        questions.append([tree.question for tree in taken])
        ages.append(old)
    return questions, ages, trees.dropped


def test_workers_that_keep_up_are_one_update_ahead() -> None:
    questions, ages, dropped = play(4, staleness=1)
    assert questions == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert ages == [[0] * 4, [1] * 4, [1] * 4, [1] * 4]
    assert dropped == 0


def test_who_is_slow_is_overtaken_and_then_dropped_and_asked_again() -> None:
    questions, ages, dropped = play(4, staleness=1, slow={1})  # the part with questions 2 and 3
    assert questions[0] == [0, 1, 4, 5]
    assert dropped == 2
    asked_again = [question for taken in questions[2:] for question in taken]
    assert {2, 3} <= set(asked_again)
    assert max(max(old) for old in ages) == 1


@given(st.integers(1, 3), st.sets(st.integers(0, 20), max_size=8), st.integers(1, 8))
def test_no_tree_is_older_than_allowed_and_none_is_taken_twice(
    staleness: int, slow: set[int], steps: int
) -> None:
    questions, ages, _ = play(steps, staleness, slow)
    assert all(len(taken) == COUNT for taken in questions)
    assert all(0 <= age <= staleness for old in ages for age in old)
    everything = [question for taken in questions for question in taken]
    assert len(everything) == len(set(everything))


def test_a_prefetcher_that_is_cleared_begins_again() -> None:
    trees, workers = prefetcher(1)
    trees.take(0, COUNT)
    trees.clear()
    assert trees.dropped == COUNT  # those of the next step, which were on their way
    workers.version = 5
    taken, ages = trees.take(5, COUNT)
    assert ages == [0] * COUNT
    assert [tree.question for tree in taken] == [8, 9, 10, 11]
