"""The batches of a run: which questions come next, and the trees that are rolled out for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from at2po_agents.config.train import TrainConfig
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job, Workers
from at2po_envs.seeds import stable_hash

if TYPE_CHECKING:
    from at2po_agents.workers.ray.prefetch import Prefetcher


@dataclass(frozen=True)
class Batch:
    """What a step has to learn from.

    Attributes:
        grown: All trees that were grown for it.
        trees: Those of them that are learned from.
        ages: Updates between the weights that sampled a tree and those that learn from it, for all
            that were grown ahead; empty where nothing is.
        asked: Questions that it took.
    """

    grown: list[RolloutTree]
    trees: list[RolloutTree]
    ages: list[int]
    asked: int


class Batches:
    """Rolls out one batch of questions a step.

    Where the learner can be lost and begun again, the last two batches are kept: an update that has
    to be repeated takes the trees that it had, since the same weights would grow the same ones.

    Args:
        config: The settings of the run.
        known: Number of questions that there are, at least 1.
        workers: Roll out.
        asked: Numbers of those that are asked, at least one; all by default. Leaving some out does
            not change the order of the others.

    Attributes:
        prefetcher: Grows trees ahead of the updates, where a run may do so.
    """

    def __init__(
        self,
        config: TrainConfig,
        known: int,
        workers: Workers,
        asked: Sequence[int] | None = None,
    ) -> None:
        self.config, self._known, self._workers = config, known, workers
        self._chosen = np.isin(np.arange(known), range(known) if asked is None else asked)
        self.prefetcher: Prefetcher | None = None
        self._asked = 0
        self._kept: dict[int, Batch] = {}

    def restart(self, step: int, asked: int) -> None:
        """Go on from a checkpoint.

        Args:
            step: Steps done.
            asked: Questions of those steps.
        """
        self._asked = asked
        self._kept = {number: batch for number, batch in self._kept.items() if number == step}
        if self.prefetcher is not None:
            self.prefetcher.clear()

    def roll_out(self, step: int) -> Batch:
        """Roll out the batch of the next step; more of it where not all trees are learned from.

        Where too few trees are informative after the last round, others fill the batch up.

        Args:
            step: Steps done.

        Source: dynamic sampling of DAPO (arXiv 2503.14476, section 3.2); limit and filling up as in
        the code of AT2PO's runs (github.com/zzfoutofspace/ATPO at 98e60f6).
        """
        if (kept := self._kept.get(step)) is not None:
            self._asked += kept.asked
            return kept
        algorithm, wanted = self.config.algorithm, self.config.rollout.questions_per_step
        count = wanted * algorithm.oversample
        grown: list[RolloutTree] = []
        informative: list[RolloutTree] = []
        others: list[RolloutTree] = []
        ages: list[int] = []
        asked = 0
        for number in range(algorithm.max_resample_rounds):
            if self.prefetcher is not None:
                trees, old = self.prefetcher.take(step, count)
                ages += old
            else:
                place = (step, number) if number else (step,)
                trees = self._workers.run_job(self._job(count, *place))
            grown += trees
            asked += count
            for tree in trees:
                (informative if algorithm.informative(tree) else others).append(tree)
            if len(informative) >= wanted:
                break
        batch = Batch(grown, [*informative, *others][:wanted], ages, asked)
        if self.config.cluster.rollout_workers:
            # The checkpoint that comes before this step may still be being written.
            self._kept = {n: old for n, old in self._kept.items() if n == step - 1} | {step: batch}
        return batch

    def job_ahead(self, count: int) -> Job:
        """Return the job of rolling out the next questions, whichever step will learn from them."""
        return self._job(count, "ahead", self._asked)

    def _job(self, count: int, *place: int | str) -> Job:
        """The job of rolling out the next questions."""
        return Job(
            tuple(self._questions(count)),
            self.config.algorithm.expansion(),
            seed=stable_hash(self.config.seed, "rollout", *place),
            temperature=self.config.rollout.temperature,
        )

    def _questions(self, count: int) -> list[int]:
        """The next questions: a new random order of those that are asked each time round."""
        lap_length = int(self._chosen.sum())
        places = [divmod(self._asked + place, lap_length) for place in range(count)]
        self._asked += count
        orders = {lap: self._order(lap) for lap in {lap for lap, _ in places}}
        return [int(orders[lap][index]) for lap, index in places]

    def _order(self, lap: int) -> NDArray[np.int64]:
        order = default_rng(stable_hash(self.config.seed, "order", lap)).permutation(self._known)
        return order[self._chosen[order]]
