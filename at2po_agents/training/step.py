"""A training step: the whole method on one page.

Which algorithm it is changes what `expansion`, `assign_credit` and `loss` do, never the step; one
process, torchrun and Ray differ in the workers alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from at2po_agents.algorithms.base import Algorithm
from at2po_agents.training.batches import Batch, Batches
from at2po_agents.workers.base import Workers


@dataclass(frozen=True)
class StepResult:
    """What a training step did.

    Attributes:
        batch: The trees that were rolled out, and those learned from.
        update: Metrics of the update, see `Learner.update`.
        seconds: How long rollout and update took.
    """

    batch: Batch
    update: dict[str, float]
    seconds: dict[str, float]


def training_step(
    step: int, batches: Batches, algorithm: Algorithm, workers: Workers
) -> StepResult:
    """Roll out a batch of questions, credit its turns, learn from them, hand the weights over.

    Args:
        step: Steps done so far.
        batches: Rolls out questions with the workers' engines; the algorithm's expansion says
            where the trees grow.
        algorithm: Credits turns; the learner minimises its loss.
        workers: Carry out the rollouts and the update.

    Returns:
        The trees, the metrics of the update, and the seconds of both halves.

    Source: AT²PO (arXiv 2601.04767): Algorithm 1 for the trees, Eq. 3 for the credit, and its
    turn-level objective.
    """
    start = time.monotonic()
    batch = batches.roll_out(step)  # questions -> trees of turns, with a reward at every leaf
    rolled_out = time.monotonic()
    for tree in batch.trees:
        algorithm.assign_credit(tree)  # rewards of leaves -> an advantage for every turn
    update = workers.learn(batch.trees, step)  # packing, policy loss, optimizer steps
    workers.set_rollout_weights()  # what engines sample with next
    seconds = {"rollout": rolled_out - start, "update": time.monotonic() - rolled_out}
    return StepResult(batch, update, seconds)
