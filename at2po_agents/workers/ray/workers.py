"""Workers that Ray starts: a pool of rollout workers, and the learner workers."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Concatenate

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from at2po_agents.config.train import TrainConfig
from at2po_agents.errors import LearnerLostError, WorkersLostError
from at2po_agents.learner.checkpoint import Checkpoint
from at2po_agents.monitoring.queue_length import QueueLength
from at2po_agents.monitoring.status import RunStatus
from at2po_agents.monitoring.trace import Span
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_agents.workers.ray.actors import LearnerActor, RolloutActor
from at2po_agents.workers.ray.calls import TICK_S, ActorLostError, Call, P, R, await_all
from at2po_agents.workers.ray.placement import connect, reserve
from at2po_agents.workers.ray.pool import RolloutPool
from at2po_agents.workers.ray.tasks import Task, Weights, finished

_log = logging.getLogger(__name__)


class RayWorkers:
    """Rollout workers and learner workers as Ray actors, watched by the process that makes this.

    Args:
        config: The settings of the run.
        status: Told of every loss.
    """

    def __init__(self, config: TrainConfig, status: RunStatus) -> None:
        self.config, self.options, self._status = config, config.cluster, status
        self.nonfinite_trees: Sequence[RolloutTree] = ()
        self.version = 0
        self._losses = Counter[str]()
        self._spans: list[Span] = []
        self._learners: list[ActorHandle] = []
        self._starting = True
        self._weights: Weights | None = None
        self._connected = connect(self.options)
        self._places = reserve(self.options)
        workers, gpus = self.options.rollout_workers, self.options.rollout_worker_gpus

        def make(number: int) -> ActorHandle:
            name = f"rollout_worker-{number}"
            return self._start_actor(number, gpus, RolloutActor, self.config, name)

        self.pool = RolloutPool(make, workers, self.options.stall_s, self._lost)

    def start(self, resumed: Checkpoint | None) -> None:
        """Start the ranks of the learner, in place of any there were."""
        self._kill_learners()
        self.pool.forget()
        self._weights = None
        self.version = 0 if resumed is None else resumed.step
        self._learners = [
            self._start_actor(
                rank, self.options.learner_worker_gpus, LearnerActor, self.config, rank
            )
            for rank in range(self.options.learner_workers)
        ]
        self._starting = True
        try:
            # All are asked, so that none waits in vain for one that finds no room.
            address, *_ = self._learn(LearnerActor.address)
            self._learn(LearnerActor.start, address, resumed)
        except WorkersLostError:
            self._kill_learners()  # they have no checkpoint to wait for
            raise
        self._starting = False

    def run_job(self, job: Job) -> list[RolloutTree]:
        """Roll a job out under the newest weights, a part of it on each rollout worker."""
        tasks = self.submit(job, urgent=True)
        self.wait(lambda: finished(tasks), len(job.questions))
        return [tree for task in tasks for tree in task.trees or ()]

    def submit(self, job: Job, *, urgent: bool = False) -> list[Task]:
        """Queue a job under the newest weights, in parts.

        Args:
            job: The job.
            urgent: Whether it goes before all others that wait.

        Returns:
            The parts.
        """
        if self._weights is None:
            boxes = [box for box in self._learn(LearnerActor.weights) if box]
            self._weights = Weights(self.version, boxes)
        parts = job.split(self.options.rollout_workers)
        tasks = [Task(part, self._weights) for part in parts]
        for task in reversed(tasks) if urgent else tasks:
            self.pool.submit(task, urgent=urgent)
        return tasks

    def wait(self, ready: Callable[[], int], count: int) -> None:
        """Keep all rollout workers busy until there are enough trees.

        Args:
            ready: Says how many there are.
            count: How many are wanted.
        """
        begun = time.time()
        self._tick()
        while ready() < count:
            time.sleep(TICK_S)
            self._tick()
        self._spans.append(Span("driver", "wait", begun, time.time()))

    def learn(self, trees: Sequence[RolloutTree], step: int) -> dict[str, float]:
        """Learn from trees on all ranks; rollouts go on meanwhile, unless they share the GPUs."""
        if self.options.colocate:
            self.pool.sleep()
        replies = self._learn(LearnerActor.update, [ray.put(list(trees))], step)
        self._spans += [span for _, _, span in replies]
        learned, self.nonfinite_trees, _ = replies[0]
        return learned

    def set_rollout_weights(self) -> None:
        """Let the next jobs be rolled out under the learner's weights, fetched when one waits."""
        self.version += 1
        self._weights = None

    def save(
        self, root: Path, step: int, *, extra: Mapping[str, float], fingerprint: str, keep: int
    ) -> None:
        """Write a checkpoint, or begin to."""
        begun = time.time()
        self._learn(
            LearnerActor.save,
            root.absolute(),
            step,
            extra=dict(extra),
            fingerprint=fingerprint,
            keep=keep,
        )
        self._spans.append(Span("driver", "save", begun, time.time()))

    def take_trace(self) -> tuple[list[Span], list[QueueLength]]:
        """Return what all actors did and how long queues were since this was last called."""
        spans, queues = self.pool.take_trace()
        spans, self._spans = self._spans + spans, []
        return spans, queues

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is written."""
        self._learn(LearnerActor.wait_for_checkpoint)

    def close(self) -> None:
        """Wait until the last checkpoint is written, and end all actors."""
        self.pool.forget()
        try:
            await_all(self._calls(LearnerActor.wait_for_checkpoint), lambda: None)
        except ActorLostError as error:
            _log.warning("the last checkpoint may be incomplete: %s %s", error.actor, error)
        finally:
            self._kill_learners()
            self.pool.close()
            if self._places is not None:
                remove_placement_group(self._places)
            if self._connected:
                ray.shutdown()

    def _learn(
        self,
        method: Callable[Concatenate[LearnerActor, P], R],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> list[R]:
        """Have all ranks carry out a method together; losing one of them loses all."""
        try:
            return await_all(self._calls(method, *arguments, **named), self._tick)
        except ActorLostError as error:
            raise self._learner_lost(error.actor, str(error)) from error

    def _calls(
        self,
        method: Callable[Concatenate[LearnerActor, P], R],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> dict[str, Call[R]]:
        """Ask all ranks to carry out a method."""
        stall_s, starting = self.options.stall_s, self._starting
        return {
            f"learner_worker-{rank}": Call(learner, stall_s, starting, method, *arguments, **named)
            for rank, learner in enumerate(self._learners)
        }

    def _learner_lost(self, actor: str, why: str) -> LearnerLostError:
        """End all ranks; return the error to raise."""
        self._kill_learners()
        self._lost(actor, why, restart=True)
        return LearnerLostError(f"expected the learner workers to last, found that {actor} {why}")

    def _tick(self) -> None:
        try:
            self.pool.tick()
        except (ObjectLostError, RayActorError) as error:
            why = "is gone, and the weights with it"
            raise self._learner_lost("learner_worker-0", why) from error

    def _lost(self, actor: str, why: str, *, restart: bool = False) -> None:
        """Note a loss; too many of one rollout worker, or restarts of the learner, end the run."""
        done = "restarted from a checkpoint" if restart else "replaced"
        _log.warning("%s %s; it is %s", actor, why, done)
        self._status.fault(actor, why, done)
        counted = "the learner" if restart else actor
        self._losses[counted] += 1
        if self._losses[counted] > self.options.max_restarts:
            raise WorkersLostError(
                f"expected {counted} to be {done} at most {self.options.max_restarts} times, found "
                f"that once more {actor} {why}; look into its log, or raise cluster.max_restarts"
            )

    def _kill_learners(self) -> None:
        for learner in self._learners:
            ray.kill(learner)
        self._learners = []

    def _start_actor(
        self,
        number: int,
        gpus: float,
        kind: Callable[P, object],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> ActorHandle:
        """Start an actor, its `heartbeat` beside its other methods; a shared GPU has its number."""
        direct = self.options.transport in ("nixl", "cuda_ipc")
        place = self._places and PlacementGroupSchedulingStrategy(self._places, number)
        made = ray.remote(
            num_cpus=1,
            num_gpus=gpus,
            enable_tensor_transport=direct,
            scheduling_strategy=place,
            concurrency_groups={"health": 1},
            max_concurrency=1,
        )
        return made(kind).remote(*arguments, **named)
