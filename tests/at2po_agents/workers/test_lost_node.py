"""Runs on a cluster of several machines, one of which is lost; all of them are on this one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.training.trainer import Trainer
from tests.at2po_agents.training.runs import assert_same, exact, weights

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

from tests.at2po_agents.workers.test_ray import (  # noqa: E402 - skips without Ray, too
    Disturbance,
    parent,
    processes,
    status,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


class Machines:
    """A head that does no work, and machines with room for two processes each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick}
        )
        self.others = [self.cluster.add_node(num_cpus=2) for _ in range(2)]

    def with_process(self, number: int) -> Any:
        """Return the machine on which a process runs."""
        raylet = parent(number)
        return next(
            node for node in self.others if node.all_processes["raylet"][0].process.pid == raylet
        )

    def lose(self, machine: Any) -> None:
        self.cluster.remove_node(machine, allow_graceful=False)
        self.others.remove(machine)

    def add(self) -> None:
        self.others.append(self.cluster.add_node(num_cpus=2))


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """A cluster that no other run of this machine finds."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_worker_niceness", "0")
        made = Machines()
        yield made
        made.cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    out = tmp_path_factory.mktemp("alone") / "run"
    Trainer(exact(out)).run()
    return weights(out)


class Generous:
    """Returns more than fits into a message."""

    def give(self) -> bytes:
        return bytes(1 << 20)

    def heartbeat(self) -> None:
        return None


@pytest.mark.parametrize(
    ("method", "colocate"), [("RolloutActor.grow_trees", False), ("LearnerActor.update", True)]
)
def test_a_machine_that_is_lost_changes_nothing(
    method: str, colocate: bool, tmp_path: Path, machines: Machines, alone: dict[str, Tensor]
) -> None:
    options = ClusterOptions(
        rollout_workers=2,
        learner_workers=2,
        stall_s=120,
        address=machines.cluster.address,
        colocate=colocate,
    )
    trainer = Trainer(exact(tmp_path, cluster=options, **{"checkpoint.every": 1}))
    machines.add()
    loss = Disturbance(
        tmp_path, method, lambda each: machines.lose(machines.with_process(each)), step=2
    )
    trainer.run()
    assert loss.hit
    assert_same(tmp_path, alone)
    assert status(tmp_path)["state"] == "finished"
    lost = {fault["actor"].split("-")[0]: fault["done"] for fault in status(tmp_path)["faults"]}
    assert lost == {"rollout_worker": "replaced", "learner_worker": "restarted from a checkpoint"}
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(6))


def test_what_is_lost_on_its_way_is_a_loss_of_who_returned_it(machines: Machines) -> None:
    from at2po_agents.workers.ray.calls import ActorLostError, Call

    with ray.init(machines.cluster.address, log_to_driver=False):
        actor = ray.remote(concurrency_groups={"health": 1})(Generous).options(num_cpus=1).remote()
        call = Call(actor, 60.0, True, Generous.give)
        assert ray.wait([call.reply], timeout=60, fetch_local=False)[0]  # it stays where it is
        machines.lose(machines.with_process(processes("Generous")[0]))
        ray.wait([call.reply], timeout=60)
        with pytest.raises(ActorLostError, match="and what it returned with it"):
            call.result()
