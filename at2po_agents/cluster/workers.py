"""Workers that Ray starts: a pool of collectors, and a group of ranks that learn."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from at2po_agents.checkpoint import Checkpoint
from at2po_agents.cluster.actors import CollectorActor, LearnerActor
from at2po_agents.cluster.calls import ActorLostError, Call
from at2po_agents.cluster.pool import CollectorPool
from at2po_agents.cluster.stream import Stream
from at2po_agents.cluster.tasks import Task, Weights
from at2po_agents.config import TrainConfig
from at2po_agents.errors import LearnerLostError, WorkersLostError
from at2po_agents.jobs import Job
from at2po_agents.status import RunStatus
from at2po_agents.timeline import Span
from at2po_agents.tree import RolloutTree

_log = logging.getLogger(__name__)

TICK_S = 0.002
"""Seconds between two looks at what the actors do."""
GRACE_S = 90.0
"""Seconds in which Ray should notice that a process is dead whose peers have noticed.

Source: Ray gives up a machine after 5 checks of up to 10 s, 3 s apart (`health_check_*` of its
settings).
"""


class RayWorkers:
    """Collectors and learner ranks as Ray actors, watched by the process that makes this.

    Args:
        config: The settings of the run.
        status: Told of every loss.
    """

    def __init__(self, config: TrainConfig, status: RunStatus) -> None:
        self.config, self.options, self._status = config, config.cluster, status
        self.offending: Sequence[RolloutTree] = ()
        self.version = 0
        self._spans: list[Span] = []
        self._learners: list[Any] = []
        self._weights: Weights | None = None
        self._connected = _connect(config)
        self._places = _places(config)
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
            self._kill_learners()  # they have nothing to settle
            raise

    def collect(self, job: Job) -> list[RolloutTree]:
        """Roll a job out under the newest weights, a share on each collector."""
        tasks = self.submit(job, urgent=True)
        self.wait(lambda: all(task.trees is not None for task in tasks))
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

    def wait(self, enough: Callable[[], bool]) -> None:
        """Keep all collectors busy until a condition holds.

        Args:
            enough: The condition.
        """
        begun = time.time()
        self._tick()
        while not enough():
            time.sleep(TICK_S)
            self._tick()
        self._spans.append(Span("driver", "wait", begun, time.time()))

    def weights(self) -> Weights:
        """Return the newest weights."""
        if self._weights is None:
            self._weights = Weights(self.version, self._learn("weights")[0])
        return self._weights

    def learn(self, trees: Sequence[RolloutTree], step: int) -> dict[str, float]:
        """Learn from trees on all ranks; collectors go on meanwhile, unless they share the GPUs."""
        if self.options.colocate:
            self.pool.call_all("sleep")
        replies = self._learn("update", [ray.put(list(trees))], step)
        self.version, self._weights = step + 1, None
        for _, _, spans in replies:
            self._spans += spans
        learned, self.offending, _ = replies[0]
        return dict(learned)

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

    def settle(self) -> None:
        """Wait until the last checkpoint is written."""
        self._learn("settle")

    def close(self) -> None:
        """Wait until the last checkpoint is written, and end all actors."""
        self.pool.forget()
        stall_s = self.options.stall_s
        try:
            for call in [Call(learner, "settle", (), stall_s) for learner in self._learners]:
                while not call.done():
                    time.sleep(TICK_S)
                call.result()
        except ActorLostError as error:
            _log.warning("the last checkpoint may not be whole: a rank of the learner %s", error)
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
        stall_s = self.options.stall_s
        return self._all(
            [
                Call(learner, method, arguments, stall_s, starting=starting)
                for learner in self._learners
            ]
        )

    def _all(self, calls: Sequence[Call]) -> list[Any]:
        """Wait for calls to ranks, and keep the collectors busy meanwhile."""
        waiting = dict(enumerate(calls))
        results: dict[int, Any] = {}
        while waiting:
            for rank, call in list(waiting.items()):
                try:
                    if call.done():
                        results[rank] = call.result()
                        del waiting[rank]
                except ActorLostError as error:
                    raise self._learner_lost(rank, str(error)) from error
                except WorkersLostError:
                    raise
                except Exception as error:
                    # A rank may find the others gone before we do: its error is not the cause.
                    if (lost := self._lost_rank()) is None:
                        raise
                    raise self._learner_lost(*lost) from error
            self._tick()
            time.sleep(TICK_S)
        return [results[rank] for rank in range(len(calls))]

    def _lost_rank(self) -> tuple[int, str] | None:
        """Return a rank that died and why, if one is found before all others have answered."""
        stall_s, end = self.options.stall_s, time.monotonic() + GRACE_S
        calls = dict(enumerate(Call(each, "progress", (), stall_s) for each in self._learners))
        while calls and time.monotonic() < end:
            for rank, call in list(calls.items()):
                try:
                    if call.done():
                        call.result()
                        del calls[rank]
                except ActorLostError as error:
                    return rank, str(error)
            time.sleep(TICK_S)
        return None

    def _learner_lost(self, rank: int, why: str) -> LearnerLostError:
        """End all ranks; return the error to raise."""
        self._kill_learners()
        self._lost(f"learner-{rank}", why)
        return LearnerLostError(
            f"expected {self.options.learners} ranks of the learner, found that rank {rank} {why}"
        )

    def _tick(self) -> None:
        try:
            self.pool.tick()
        except (ObjectLostError, RayActorError) as error:
            raise self._learner_lost(0, "is gone, and the weights with it") from error

    def _lost(self, actor: str, why: str) -> None:
        """Note a loss; too many end the run."""
        done = "replaced" if actor.startswith("collector") else "restarted from a checkpoint"
        _log.warning("%s %s; it is %s", actor, why, done)
        self._status.fault(actor, why, done)
        losses = [fault for fault in self._status.faults if fault["actor"] != "driver"]
        if len(losses) > self.options.max_restarts:
            raise WorkersLostError(
                f"expected at most {self.options.max_restarts} processes to be lost, found one "
                f"more: {actor} {why}; look into its log, or raise cluster.max_restarts"
            )

    def _kill_learners(self) -> None:
        for learner in self._learners:
            ray.kill(learner)
        self._learners = []

    def _new_collector(self, number: int) -> Any:
        resources = self._resources(number, self.options.collector_gpus)
        return _remote(CollectorActor, resources).remote(self.config, f"collector-{number}")

    def _new_learner(self, rank: int) -> Any:
        resources = self._resources(rank, self.options.learner_gpus)
        return _remote(LearnerActor, resources).remote(self.config, rank)

    def _resources(self, number: int, gpus: float) -> dict[str, Any]:
        """Return what Ray is asked for; where GPUs are shared, also which of them."""
        direct = self.options.transport != "object-store"
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


def _remote(kind: type, resources: dict[str, Any]) -> Any:
    """Return an actor class whose `progress` answers while another method runs."""
    return ray.remote(concurrency_groups={"health": 1}, max_concurrency=1, **resources)(kind)


def _connect(config: TrainConfig) -> bool:
    """Connect to Ray; return whether this began the connection, and so has to end it."""
    if ray.is_initialized():
        return False
    options = config.cluster
    if options.address:
        ray.init(address=options.address, logging_level=logging.WARNING)
        return True
    processes = options.collectors + options.learners
    ray.init(
        address="local",  # whatever else runs here
        num_cpus=max(os.cpu_count() or 1, processes),
        include_dashboard=False,
        logging_level=logging.WARNING,
    )
    return True


def _places(config: TrainConfig) -> Any:
    """Reserve a GPU for every pair of collector and rank that share one."""
    options = config.cluster
    if not options.colocate:
        return None
    bundle = {"CPU": 2.0, "GPU": options.collector_gpus + options.learner_gpus}
    bundles = [{name: n for name, n in bundle.items() if n} for _ in range(options.learners)]
    places = placement_group(bundles, strategy="PACK")
    if not places.wait(options.stall_s):
        found: Any = ray.cluster_resources()
        raise WorkersLostError(
            f"expected room for {len(bundles)} x {bundles[0]} in the Ray cluster, found {found}; "
            "lower cluster.learners, or add machines"
        )
    return places
