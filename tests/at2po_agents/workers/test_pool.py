"""Which collector does which job with which weights; their processes are objects of this one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.train import TrainConfig, override
from at2po_agents.rollout.expansion import Chains
from at2po_agents.workers.ray.tasks import Task, Weights
from at2po_agents.workers.rollout_worker import Job

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

from at2po_agents.workers.ray import actors, pool  # noqa: E402
from at2po_agents.workers.ray.calls import ActorLostError  # noqa: E402

pytestmark = pytest.mark.slow  # which is where Ray is installed


class Collector:
    """Notes what it is asked for, and does it when it is told to."""

    def __init__(self, number: int) -> None:
        self.number, self.alive, self.slow = number, True, False
        self.asked: list[tuple[Any, ...]] = []


class Call:
    """What a collector is at."""

    def __init__(self, actor: Collector, method: str, arguments: Any, *_: Any, **how: Any) -> None:
        self.actor, self.method = actor, method
        actor.asked.append((method, *arguments))

    def done(self) -> bool:
        if not self.actor.alive:
            raise ActorLostError("died")
        return not self.actor.slow

    def result(self) -> Any:
        return ([], [], []) if self.method == "collect" else None


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Collector]:
    """All collectors that were ever started."""
    monkeypatch.setattr(pool, "Call", Call)
    monkeypatch.setattr(pool.ray, "kill", lambda actor: None)
    return []


def collectors(made: list[Collector], size: int = 3) -> pool.CollectorPool:
    def make(number: int) -> Collector:
        made.append(Collector(number))
        return made[-1]

    return pool.CollectorPool(make, size, 60.0, lambda actor, why: None)


def tasks(weights: Weights) -> list[Task]:
    return [Task(share, weights) for share in Job((5, 6, 7), Chains(1)).shares(3)]


@pytest.mark.parametrize(("boxes", "taken"), [([["a"]], "aaa"), ([["a"], ["b"], ["c"]], "abc")])
def test_a_collector_takes_the_box_of_its_rank_if_every_rank_has_one(
    boxes: list[list[str]], taken: str, made: list[Collector]
) -> None:
    group = collectors(made)
    for task in tasks(Weights(4, boxes)):
        group.submit(task)
    group.tick()
    assert [each.asked[0][2:] for each in made] == [([box],) for box in taken]


@pytest.mark.parametrize(
    ("transport", "handing"), [("object-store", [0]), ("nixl", [0]), ("cuda_ipc", [0, 1, 2])]
)
def test_ranks_hand_out_weights_to_all_collectors_or_each_to_one(
    transport: Any, handing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.ray, "put", lambda state, **how: (state, how))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if nixl was there
    options = ClusterOptions(collectors=3, learners=3, colocate=True, transport=transport)

    class Learning:
        state = torch.ones(2)

        def weights(self) -> dict[str, torch.Tensor]:
            return {"one": self.state}

    found = []
    for rank in range(3):
        learner: Any = actors.LearnerActor(
            override(TrainConfig(), {"cluster": options, "model.device": "cpu"}), rank
        )
        learner._worker = Learning()
        if box := learner.weights():
            ((state, how),) = box
            assert how.get("_tensor_transport", "object-store") == transport
            assert torch.equal(state["one"], Learning.state)
            if transport != "object-store":
                assert state["one"].data_ptr() != Learning.state.data_ptr()
            found.append(rank)
    assert found == handing


def test_a_method_for_all_reaches_also_who_replaces_another(made: list[Collector]) -> None:
    group = collectors(made)
    made[1].alive = False
    group.call_all("sleep")
    assert [(each.number, each.asked) for each in made] == [
        (number, [("sleep",)]) for number in (0, 1, 2, 1)
    ]
