"""Workers that Ray starts: a pool of collectors, and a group of ranks that learn."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from at2po_agents.config.train import TrainConfig
from at2po_agents.errors import LearnerLostError, WorkersLostError
from at2po_agents.learner.checkpoint import Checkpoint
from at2po_agents.monitoring.queue_length import QueueLength, QueueWatch
from at2po_agents.monitoring.status import RunStatus
from at2po_agents.monitoring.trace import Span
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.ray.actors import CollectorActor, LearnerActor
from at2po_agents.workers.ray.calls import TICK_S, ActorLostError, Call, await_all
from at2po_agents.workers.ray.placement import as_actor, connect, reserve
from at2po_agents.workers.ray.pool import CollectorPool
from at2po_agents.workers.ray.prefetch import Stream
from at2po_agents.workers.ray.tasks import Task, Weights, finished
from at2po_agents.workers.rollout_worker import Job

_log = logging.getLogger(__name__)


class RayWorkers:
    """Collectors and learner ranks as Ray actors, watched by the process that makes this.

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
        self._trees = QueueWatch("trees")
        self._ready: Callable[[], int] = lambda: 0
        self._learners: list[Any] = []
        self._weights: Weights | None = None
        self._connected = connect(self.options)
        self._places = reserve(self.options)
        self.pool = CollectorPool(
            self._new_collector, self.options.collectors, self.options.stall_s, self._lost
        )

    def start(self, resumed: Checkpoint | None) -> None:
        """Start the ranks of the learner, in place of any there were."""
        self._kill_learners()
        self.pool.forget()
        self._weights = None
        self.version = 0 if resumed is None else resumed.step
        self._learners = [self._new_learner(rank) for rank in range(self.options.learners)]
        try:
            # All are asked, so that none waits in vain for one that finds no room.
            address, *_ = self._learn("address", starting=True)
            self._learn("start", address, resumed, starting=True)
        except WorkersLostError:
            self._kill_learners()  # they have no checkpoint to wait for
            raise

    def collect(self, job: Job) -> list[RolloutTree]:
        """Roll a job out under the newest weights, a share on each collector."""
        tasks, before = self.submit(job, urgent=True), self._ready
        self.wait(lambda: finished(tasks), len(job.questions), learned=not job.test)
        self._ready = before
        return [tree for task in tasks for tree in task.trees or ()]

    def submit(self, job: Job, *, urgent: bool = False) -> list[Task]:
        """Queue a job under the newest weights, in shares.

        Args:
            job: The job.
            urgent: Whether it goes before all others that wait.

        Returns:
            The shares.
        """
        weights = self.weights()
        tasks = [Task(share, weights) for share in job.shares(len(self.pool))]
        for task in reversed(tasks) if urgent else tasks:
            self.pool.submit(task, urgent=urgent)
        return tasks

    def wait(self, ready: Callable[[], int], count: int, *, learned: bool = True) -> None:
        """Keep all collectors busy until there are enough trees.

        Args:
            ready: Says how many there are.
            count: How many are wanted.
            learned: Whether the learner waits for them.
        """
        begun = time.time()
        if learned:
            self._ready = ready
        self._tick()
        while ready() < count:
            time.sleep(TICK_S)
            self._tick()
        self._spans.append(Span("driver", "wait", begun, time.time()))

    def weights(self) -> Weights:
        """Return the newest weights."""
        if self._weights is None:
            boxes = [box for box in self._learn("weights") if box]
            self._weights = Weights(self.version, boxes)
        return self._weights

    def learn(self, trees: Sequence[RolloutTree], step: int) -> dict[str, float]:
        """Learn from trees on all ranks; collectors go on meanwhile, unless they share the GPUs."""
        if self.options.colocate:
            self.pool.call_all("sleep")
        replies = self._learn("update", [ray.put(list(trees))], step)
        for _, _, spans in replies:
            self._spans += spans
        learned, self.nonfinite_trees, _ = replies[0]
        return dict(learned)

    def publish(self) -> None:
        """Let the next jobs be rolled out under the learner's weights, fetched when one waits."""
        self.version += 1
        self._weights = None

    def save(self, root: Path, step: int, *, extra: Any, fingerprint: str, keep: int) -> None:
        """Write a checkpoint, or begin to."""
        facts = {"extra": dict(extra), "fingerprint": fingerprint, "keep": keep}
        begun = time.time()
        self._learn("save", root.absolute(), step, facts)
        self._spans.append(Span("driver", "save", begun, time.time()))

    def take_spans(self) -> list[Span]:
        """Return what all actors did since this was last called."""
        spans = self._spans + self.pool.spans
        self._spans, self.pool.spans = [], []
        return spans

    def take_queues(self) -> list[QueueLength]:
        """Return how long queues were since this was last called."""
        return [self._trees.take(), *self.pool.take_queues()]

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is written."""
        self._learn("wait_for_checkpoint")

    def close(self) -> None:
        """Wait until the last checkpoint is written, and end all actors."""
        self.pool.forget()
        try:
            await_all(self._calls("wait_for_checkpoint"), lambda: None)
        except ActorLostError as error:
            _log.warning("the last checkpoint may not be whole: %s %s", error.actor, error)
        finally:
            self._kill_learners()
            for actor in self.pool.actors:
                ray.kill(actor)
            if self._places is not None:
                remove_placement_group(self._places)
            if self._connected:
                ray.shutdown()

    def _learn(self, method: str, *arguments: Any, starting: bool = False) -> list[Any]:
        """Have all ranks carry out a method together; losing one of them loses all."""
        try:
            return await_all(self._calls(method, *arguments, starting=starting), self._tick)
        except ActorLostError as error:
            raise self._learner_lost(error.actor, str(error)) from error

    def _calls(self, method: str, *arguments: Any, starting: bool = False) -> dict[str, Call]:
        """Ask all ranks to carry out a method."""
        stall_s = self.options.stall_s
        return {
            f"learner-{rank}": Call(learner, method, arguments, stall_s, starting=starting)
            for rank, learner in enumerate(self._learners)
        }

    def _learner_lost(self, actor: str, why: str) -> LearnerLostError:
        """End all ranks; return the error to raise."""
        self._kill_learners()
        self._lost(actor, why, restart=True)
        return LearnerLostError(
            f"expected the learner and whoever it works with to last, found that {actor} {why}"
        )

    def _tick(self) -> None:
        try:
            self.pool.tick()
        except (ObjectLostError, RayActorError) as error:
            raise self._learner_lost("learner-0", "is gone, and the weights with it") from error
        self._trees.note(self._ready())

    def _lost(self, actor: str, why: str, *, restart: bool = False) -> None:
        """Note a loss; too many of one collector, or restarts of the learner, end the run."""
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

    def _new_collector(self, number: int) -> Any:
        resources = self._resources(number, self.options.collector_gpus)
        return as_actor(CollectorActor, resources).remote(self.config, f"collector-{number}")

    def _new_learner(self, rank: int) -> Any:
        resources = self._resources(rank, self.options.learner_gpus)
        return as_actor(LearnerActor, resources).remote(self.config, rank)

    def _resources(self, number: int, gpus: float) -> dict[str, Any]:
        """Return what Ray is asked for; where GPUs are shared, also which of them."""
        direct = self.options.transport in ("nixl", "cuda_ipc")
        asked = {"num_cpus": 1, "num_gpus": gpus, "enable_tensor_transport": direct}
        if self._places is not None:
            place = PlacementGroupSchedulingStrategy(self._places, number)
            asked["scheduling_strategy"] = place
        return asked


def ahead(workers: RayWorkers, new_job: Callable[[int], Job]) -> Stream | None:
    """Return what rolls out ahead of the updates, where a run may do so.

    Args:
        workers: Of the run.
        new_job: As for `Stream`.
    """
    staleness = workers.options.staleness
    return Stream(workers, staleness, new_job) if staleness else None
