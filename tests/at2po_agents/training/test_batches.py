"""Batches: every question in its turn, and trees that a lost update does not take along."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from at2po_agents import algorithms
from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.train import TrainConfig, override
from at2po_agents.training.batches import Batches
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_envs import Outcome

KNOWN = 10
RAY = ClusterOptions(rollout_workers=1)


class Workers:
    """Note every job, and return trees without turns."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run_job(self, job: Job) -> list[RolloutTree]:
        self.jobs.append(job)
        trees = [RolloutTree(question, [1]) for question in job.questions]
        for tree in trees:
            tree.root.outcome = Outcome(False, 0.0, True)
        return trees


def made(count: int = 4, **changes: Any) -> tuple[Batches, Workers]:
    workers: Any = Workers()
    config = override(
        TrainConfig(), {"rollout.questions_per_step": count, "optim.mini_batches": 1, **changes}
    )
    return Batches(config, KNOWN, workers), workers


@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 3))
def test_every_question_comes_once_a_lap_in_an_order_of_its_own(
    count: int, steps: int, seed: int
) -> None:
    batches, workers = made(count, seed=seed)
    for step in range(steps):
        batches.roll_out(step)
    asked = [question for job in workers.jobs for question in job.questions]
    assert len(asked) == count * steps
    laps = [tuple(asked[start : start + KNOWN]) for start in range(0, len(asked), KNOWN)]
    assert all(len(set(lap)) == len(lap) for lap in laps)
    whole = [lap for lap in laps if len(lap) == KNOWN]
    assert len(set(whole)) == len(whole)
    assert len({job.seed for job in workers.jobs}) == steps


@given(st.integers(0, 4), st.integers(0, 4))
def test_a_run_that_begins_again_takes_the_trees_that_it_had(done: int, back: int) -> None:
    undisturbed, _ = made(cluster=RAY)
    expected = [undisturbed.roll_out(step) for step in range(8)]
    batches, workers = made(cluster=RAY)
    before = [batches.roll_out(step) for step in range(done + 1)]
    start = max(0, done - back)
    batches.restart(start, 4 * start)
    workers.jobs.clear()
    after = [batches.roll_out(step) for step in range(start, 8)]
    for found, wanted in zip(
        [*before, *after], expected[: done + 1] + expected[start:], strict=True
    ):
        assert [tree.question for tree in found.trees] == [tree.question for tree in wanted.trees]
    kept = done - start <= 1  # the step whose update was lost, or the one before it
    assert (after[0] is before[start]) == kept
    assert len(workers.jobs) == 8 - start - kept


def test_no_batch_is_kept_where_nothing_begins_again() -> None:
    batches, workers = made()
    batches.roll_out(0)
    batches.restart(0, 0)
    batches.roll_out(0)
    assert len(workers.jobs) == 2


def test_questions_of_dynamic_sampling_all_count() -> None:
    batches, workers = made(algorithm=algorithms.DAPO(chains=2, max_resample_rounds=3), cluster=RAY)
    batch = batches.roll_out(0)  # no tree teaches anything, so all rounds are asked for
    assert batch.asked == sum(len(job.questions) for job in workers.jobs) == len(batch.grown)
    assert len(workers.jobs) == 3
    assert len(batch.trees) == 4
    assert len({job.seed for job in workers.jobs}) == len(workers.jobs)


@given(st.sets(st.integers(0, KNOWN - 1), min_size=1), st.integers(0, 3))
def test_questions_that_are_left_out_change_nothing_for_the_others(
    asked: set[int], seed: int
) -> None:
    whole, all_workers = made(KNOWN, seed=seed)
    workers: Any = Workers()
    config = override(
        TrainConfig(),
        {"rollout.questions_per_step": len(asked), "optim.mini_batches": 1, "seed": seed},
    )
    part = Batches(config, KNOWN, workers, sorted(asked))
    for step in range(3):
        whole.roll_out(step)
        part.roll_out(step)
    for job, every in zip(workers.jobs, all_workers.jobs, strict=True):
        assert list(job.questions) == [number for number in every.questions if number in asked]
        assert job.seed == every.seed
