"""What runs in the processes that Ray starts: a rollout worker, or a learner worker."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import ray
from torch import Tensor

from at2po_agents.config.train import TrainConfig
from at2po_agents.learner.checkpoint import Checkpoint
from at2po_agents.learner.process_group import join
from at2po_agents.monitoring.queue_length import QueueLength
from at2po_agents.monitoring.trace import Span, sampled_tokens
from at2po_agents.policy.loading import find_device
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.learner_worker import LearnerWorker, load_start
from at2po_agents.workers.ray.tasks import Box
from at2po_agents.workers.rollout_worker import RolloutWorker, make_envs


class RolloutActor:
    """An engine and its environments, which take weights and return trees.

    Args:
        config: The settings of the run.
        name: Name in the time line.
    """

    def __init__(self, config: TrainConfig, name: str) -> None:
        self.config, self.name = config, name
        self._worker: RolloutWorker | None = None
        self._weights: Mapping[str, Tensor] = {}
        self._held = ""  # the reference of those that were fetched

    def grow_trees(
        self, job: Job, weights: Box
    ) -> tuple[list[RolloutTree], list[Span], list[QueueLength]]:
        """Roll out a job.

        Args:
            job: The questions, and how.
            weights: Where they are; fetched if they are not those of the last job.

        Returns:
            Its trees, what was done when, and how long queues were meanwhile.
        """
        begun = time.time()
        if self._worker is None:  # here, so that errors are those of a call, not of a dead actor
            policy = load_start(self.config, None)
            envs = make_envs(self.config)
            self._worker = RolloutWorker(self.config, policy.model, policy.tokenizer, envs)
        # Versions do not tell them apart: those of steps that were lost come again.
        if weights[0].hex() != self._held:
            self._weights, self._held = ray.get(weights[0]), weights[0].hex()
        loaded = time.time()
        trees = self._worker.grow_trees(job, self._weights)
        stage = "eval" if job.test else "collect"
        spans = [
            Span(self.name, "weights", begun, loaded),
            Span(self.name, stage, loaded, time.time(), sampled_tokens(trees)),
        ]
        return trees, spans, [queue.take() for queue in self._worker.queues]

    def sleep(self) -> None:
        """Release the engine's weights and KV cache, so that the learner has their memory."""
        if self._worker is not None:
            self._worker.engine.sleep()

    def heartbeat(self) -> object:
        """Return a value that changes as long as this process makes progress."""
        if self._worker is None:
            return None
        return time.time() if self._worker.waiting else astuple(self._worker.engine.stats)


class LearnerActor:
    """One learner worker: a rank of the learner.

    Args:
        config: The settings of the run.
        rank: Its number.
    """

    _worker: LearnerWorker

    def __init__(self, config: TrainConfig, rank: int) -> None:
        self.config, self.rank = config, rank

    def address(self) -> str:
        """Return a `host:port` of this process's machine at which the ranks can meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            host: str = ray.util.get_node_ip_address()
            return f"{host}:{free.getsockname()[1]}"

    def start(self, address: str, resumed: Checkpoint | None) -> None:
        """Join the other ranks, and load the policy.

        Args:
            address: Where they meet.
            resumed: The checkpoint to go on from.
        """
        options = self.config.cluster
        group = join(
            rank=self.rank,
            size=options.learner_workers,
            address=address,
            timeout_s=options.stall_s,
        )
        policy = load_start(self.config, resumed)
        self._worker = LearnerWorker(self.config, policy, resumed, group)

    def update(self, trees: Box, step: int) -> tuple[dict[str, float], Sequence[RolloutTree], Span]:
        """Learn from trees.

        Returns:
            Metrics and nonfinite trees, on rank 0 alone, and what was done when.
        """
        fetched = ray.get(trees[0])
        begun = time.time()
        learned = self._worker.learner.update(fetched, step)
        tokens = int(learned["trained_tokens"]) if self.rank == 0 else 0
        span = Span(f"learner_worker-{self.rank}", "update", begun, time.time(), tokens)
        nonfinite = self._worker.learner.nonfinite_trees if self.rank == 0 else []
        return learned, nonfinite, span

    def weights(self) -> Box:
        """Return where the weights of the policy are; empty on ranks that do not hand them out."""
        state, transport = self._worker.weights(), self.config.cluster.transport
        if self.rank > 0 and transport != "cuda_ipc":  # else each does to the one on its GPU
            return []
        if transport == "object-store":
            return [ray.put({name: tensor.cpu() for name, tensor in state.items()})]
        # Rollout workers read this memory later: it must not be what the learner changes.
        place = find_device(self.config.model.device)
        apart = {name: tensor.detach().to(place, copy=True) for name, tensor in state.items()}
        return [ray.put(apart, _tensor_transport=transport)]

    def save(
        self, root: Path, step: int, *, extra: Mapping[str, float], fingerprint: str, keep: int
    ) -> None:
        """Write a checkpoint, or begin to."""
        self._worker.save(root, step, extra=extra, fingerprint=fingerprint, keep=keep)

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is written."""
        self._worker.wait_for_checkpoint()

    def heartbeat(self) -> object:
        """Return a value that changes as long as this process makes progress."""
        return self._worker.learner.passes if hasattr(self, "_worker") else None
