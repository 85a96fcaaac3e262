"""Processes that roll out together: each its part, all of them with all trees."""

from __future__ import annotations

from typing import Any

from at2po_agents.config.train import TrainConfig
from at2po_agents.errors import ToolsUnavailableError
from at2po_agents.learner.process_group import DataParallelGroup
from at2po_agents.monitoring.queue_length import QueueWatch
from at2po_agents.rollout.expansion import Chains
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.local import LocalWorkers
from tests.at2po_agents.samples import random_tree
from tests.at2po_agents.training.several_ranks import together


class Rollout:
    """Grows a tree that is named after its question; the tools for question 13 are away."""

    def grow_trees(self, job: Job, weights: Any) -> list[RolloutTree]:
        self.queues = [QueueWatch("engine")]
        self.queues[0].note(len(job.questions))
        if 13 in job.questions:
            raise ToolsUnavailableError("search is away")
        return [random_tree(question) for question in job.questions]


class Learning:
    def weights(self) -> dict[str, Any]:
        return {}


def collect_all(group: DataParallelGroup) -> list[Any]:
    made: Any = LocalWorkers(TrainConfig(), (None, None), group)
    made.rollout, made.learning = Rollout(), Learning()
    made.set_rollout_weights()
    found: list[Any] = []
    for questions in [(3, 4, 5, 6, 7), (8,), (13, 14), (14, 13), (9, 10)]:
        try:
            trees = made.run_job(Job(questions, Chains(1)))
            found.append([tree.question for tree in trees])
        except ToolsUnavailableError as error:
            found.append(str(error))
    spans, queues = made.take_trace()
    return [
        *found,
        [queue.longest for queue in queues],
        [(span.actor, span.stage) for span in spans],
    ]


def test_all_ranks_have_all_trees_in_order_or_pause_together() -> None:
    first, second = together(2, collect_all)
    assert first == second
    *found, queues, spans = first
    names = [[f"question {number}" for number in row] for row in ([3, 4, 5, 6, 7], [8], [9, 10])]
    assert found == [*names[:2], "search is away", "search is away", names[2]]
    assert sorted(queues) == [1] * 7 + [2, 3]
    assert {actor for actor, _ in spans} == {"rank-0", "rank-1"}
