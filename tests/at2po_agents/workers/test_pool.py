"""Which rollout worker does which job with which weights, with workers of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.train import TrainConfig, override
from at2po_agents.rollout.expansion import Chains
from at2po_agents.workers.base import Job
from at2po_agents.workers.ray.tasks import Task, Weights

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

from at2po_agents.workers.ray import actors, pool  # noqa: E402
from at2po_agents.workers.ray.calls import ActorLostError  # noqa: E402

pytestmark = pytest.mark.slow  # which is where Ray is installed


class Worker:
    """Notes what it is asked for, and does it."""

    def __init__(self, number: int) -> None:
        self.number, self.alive = number, True
        self.asked: list[tuple[Any, ...]] = []


class Call:
    """What a rollout worker is at."""

    def __init__(
        self, actor: Worker, stall_s: float, starting: bool, method: Callable[..., Any], *given: Any
    ) -> None:
        self.actor, self.method = actor, method.__name__
        actor.asked.append((self.method, *given))

    def done(self) -> bool:
        if not self.actor.alive:
            raise ActorLostError("died")
        return True

    def result(self) -> Any:
        return ([], [], []) if self.method == "grow_trees" else None


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """All rollout workers that were ever started."""
    monkeypatch.setattr(pool, "Call", Call)
    monkeypatch.setattr(pool.ray, "kill", lambda actor: None)
    return []


def three(made: list[Worker]) -> pool.RolloutPool:
    def make(number: int) -> Worker:
        made.append(Worker(number))
        return made[-1]

    return pool.RolloutPool(make, 3, 60.0, lambda actor, why: None)


@pytest.mark.parametrize(("boxes", "taken"), [([["a"]], "aaa"), ([["a"], ["b"], ["c"]], "abc")])
def test_a_worker_takes_the_box_of_its_rank_if_every_rank_has_one(
    boxes: list[list[str]], taken: str, made: list[Worker]
) -> None:
    workers = three(made)
    for part in Job((5, 6, 7), Chains(1)).split(3):
        workers.submit(Task(part, Weights(4, boxes)))
    workers.tick()
    assert [each.asked[0][2:] for each in made] == [([box],) for box in taken]


@pytest.mark.parametrize(
    ("transport", "handing"), [("object-store", [0]), ("nixl", [0]), ("cuda_ipc", [0, 1, 2])]
)
def test_ranks_hand_out_weights_to_all_workers_or_each_to_one(
    transport: Any, handing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.ray, "put", lambda state, **how: (state, how))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if nixl was there
    options = ClusterOptions(
        rollout_workers=3, learner_workers=3, colocate=True, transport=transport
    )

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


def test_a_worker_that_is_lost_before_it_sleeps_is_replaced(made: list[Worker]) -> None:
    workers = three(made)
    made[1].alive = False
    workers.sleep()
    assert [(each.number, each.asked) for each in made] == [
        *((number, [("sleep",)]) for number in (0, 1, 2)),
        (1, []),  # it has no engine yet
    ]
