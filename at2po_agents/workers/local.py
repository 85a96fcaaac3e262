"""Rollouts and updates in this process, or in each of several that `torchrun` started."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from torch import Tensor

from at2po_agents.config.train import TrainConfig
from at2po_agents.errors import ToolsUnavailableError
from at2po_agents.learner import checkpoint
from at2po_agents.learner.process_group import DataParallelGroup
from at2po_agents.monitoring.queue_length import QueueLength
from at2po_agents.monitoring.trace import Span, sampled_tokens
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.learner_worker import LearnerWorker, load_start
from at2po_agents.workers.rollout_worker import RolloutWorker
from at2po_envs import ForkableEnv


class LocalWorkers:
    """This process rolls out and learns; so do the others that `torchrun` started, in step.

    Each rank rolls out its part of a job; all of them then have all trees. A lone process has one
    model, which both its engine and its learner use.

    Args:
        config: The settings of the run.
        envs: The environments that train and that evaluate.
        group: Processes that work together.
    """

    learning: LearnerWorker
    rollout: RolloutWorker

    def __init__(
        self,
        config: TrainConfig,
        envs: tuple[ForkableEnv, ForkableEnv],
        group: DataParallelGroup,
    ) -> None:
        self.config, self.group, self._envs = config, group, envs
        self._weights: Mapping[str, Tensor] = {}
        self._spans: list[Span] = []
        self._queues: list[QueueLength] = []

    @property
    def nonfinite_trees(self) -> Sequence[RolloutTree]:
        """Trees whose loss or gradient was not finite in the latest update."""
        return self.learning.learner.nonfinite_trees

    def start(self, resumed: checkpoint.Checkpoint | None) -> None:
        """Load the policy, and make engine and learner."""
        config, alone = self.config, self.group.world_size == 1
        policy = load_start(config, resumed)
        # Shards cannot generate; vLLM has weights of its own anyhow.
        served = policy.model if alone or config.engine.name == "vllm" else deepcopy(policy.model)
        self.rollout = RolloutWorker(config, served, policy.tokenizer, self._envs)
        self.learning = LearnerWorker(config, policy, resumed, self.group)
        self.set_rollout_weights()

    def run_job(self, job: Job) -> list[RolloutTree]:
        """Roll out this rank's part of a job, and return the trees of all."""
        parts = job.split(self.group.world_size)
        begun, own = time.time(), list[RolloutTree]()
        unavailable: ToolsUnavailableError | None = None
        if self.group.rank < len(parts):
            try:
                own = self.rollout.grow_trees(parts[self.group.rank], self._weights)
            except ToolsUnavailableError as error:
                unavailable = error  # all ranks have to pause together
            if self.group.world_size > 1:
                self._queues += [queue.take() for queue in self.rollout.queues]
        done = time.time()
        gathered = self.group.all_gather((own, unavailable))
        if errors := [error for _, error in gathered if error is not None]:
            raise errors[0]
        trees = [tree for found, _ in gathered for tree in found]
        self._note("eval" if job.test else "collect", begun, done, sampled_tokens(own))
        self._note("wait", done, time.time())
        return trees

    def learn(self, trees: Sequence[RolloutTree], step: int) -> dict[str, float]:
        """Learn from credited trees while the engine sleeps."""
        self.rollout.engine.sleep()
        self._weights = {}  # of several ranks a copy, whose memory the update may need
        begun = time.time()
        learned = self.learning.learner.update(trees, step)
        self._note("update", begun, time.time(), int(learned["trained_tokens"]))
        return learned

    def set_rollout_weights(self) -> None:
        """Keep the learner's weights, in one piece, for the engine to load with its next job."""
        begun = time.time()
        self._weights = self.learning.weights()
        self._note("weights", begun, time.time())

    def save(
        self, root: Path, step: int, *, extra: Mapping[str, float], fingerprint: str, keep: int
    ) -> None:
        """Write a checkpoint; that of several ranks is written while they go on."""
        self.learning.save(root, step, extra=extra, fingerprint=fingerprint, keep=keep)

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is written."""
        self.learning.wait_for_checkpoint()

    def take_trace(self) -> tuple[list[Span], list[QueueLength]]:
        """Return what all ranks did and how long their queues were since this was last called."""
        gathered = self.group.all_gather((self._spans, self._queues))
        self._spans, self._queues = [], []
        spans = [span for found, _ in gathered for span in found]
        return spans, [queue for _, found in gathered for queue in found]

    def close(self) -> None:
        """Wait until the last checkpoint is written, and free the engine."""
        try:
            self.wait_for_checkpoint()
        finally:
            self.rollout.engine.close()

    def _note(self, stage: str, start: float, end: float, tokens: int = 0) -> None:
        if self.group.world_size > 1:
            self._spans.append(Span(f"rank-{self.group.rank}", stage, start, end, tokens))
