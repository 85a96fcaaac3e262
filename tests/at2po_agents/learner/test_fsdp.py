"""Several ranks make the update that one process makes, where they cut trees among them too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from at2po_agents.algorithms import AEPO, ATPO, DAPO, GRPO, GSPO, Algorithm
from at2po_agents.learner.partition import partition_packs, split
from at2po_agents.learner.process_group import DataParallelGroup
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.policy.adapted import add_lora
from tests.at2po_agents.samples import (
    StepLearner,
    damped,
    flat_tree,
    random_tree,
    tiny_model,
    trees,
)
from tests.at2po_agents.training.several_ranks import together

WIDE = ATPO(clip_low=0.9, clip_high=9.0)
BUDGET = 30  # most of the trees are larger


def uneven() -> list[RolloutTree]:
    """One tree of many packs, and small ones of one pack each."""
    large = random_tree(3, size=60)
    for number, leaf in enumerate(large.leaves()):
        leaf.reward = float(number % 2)
    return [*(tree for tree in trees(9) if tree.unique_tokens < 40), large]


def broken() -> list[RolloutTree]:
    found = trees(5)
    found[1].leaves()[0].reward = math.nan
    return found


@dataclass(frozen=True)
class Case:
    """A learner, and the batches that it learns from one after the other."""

    algorithm: Algorithm = WIDE
    batches: tuple[Callable[[], list[RolloutTree]], ...] = (
        lambda: trees(5),
        lambda: trees(5, seed=50),
    )
    settings: dict[str, Any] = field(default_factory=dict)
    family: str = "qwen3"  # embedding and head are tied; those of llama are not
    dtype: torch.dtype = torch.float64
    lora: bool = False
    poison: bool = False  # weights that are not finite


CASES = {
    "atpo": Case(settings={"mini_batches": 2}),
    "grpo towards the reference": Case(GRPO(kl_coef=0.5), settings={"mini_batches": 2}),
    "dapo": Case(DAPO(), settings={"mini_batches": 3}),
    "gspo": Case(GSPO(clip_low=0.5, clip_high=2.0), settings={"mini_batches": 2}),
    "aepo": Case(AEPO(entropy_weight=0.7), settings={"mini_batches": 2}),
    "recomputed activations": Case(settings={"gradient_checkpointing": True, "mini_batches": 2}),
    "head of its own": Case(GRPO(kl_coef=0.5), family="llama"),
    "clipped gradient": Case(settings={"grad_clip": 0.01}),
    "rows alone": Case(settings={"token_budget": 1, "mini_batches": 2}),
    "idle packs": Case(batches=(uneven,)),
    "fewer trees than ranks": Case(settings={"mini_batches": 5}),
    "one tree in one pack": Case(
        batches=(lambda: trees(1), lambda: trees(1, seed=50)), settings={"token_budget": 10**6}
    ),
    "no advantages": Case(batches=(lambda: trees(3), lambda: [flat_tree(1), flat_tree(2)])),
    "broken tree": Case(batches=(broken, lambda: trees(5)), settings={"mini_batches": 2}),
    "broken weights": Case(batches=(lambda: trees(5),), poison=True),
    "adapter": Case(GRPO(kl_coef=0.5), settings={"mini_batches": 2}, lora=True),
    "offloaded": Case(settings={"mini_batches": 2, "offload": True}),
    "float32": Case(settings={"mini_batches": 2}, dtype=torch.float32),
    "bfloat16": Case(settings={"mini_batches": 2}, dtype=torch.bfloat16),
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Of packs: weighted means of what is no mean over tokens, so it depends on who shares a pack; and
# what the parts of a tree share counts in each of them.
BY_PACK = ("ratio_p", "h_turn", "clip_frac_turn", "approx_kl_turn", "trained_tokens")
BY_THREE = ("atpo", "fewer trees than ranks", "one tree in one pack", "broken tree")
"""Cases that three ranks play, too; trees are cut among all of them."""
CUT = (*BY_THREE, "grpo towards the reference", "dapo", "gspo", "aepo", "rows alone", "idle packs")
"""Cases in which trees are cut among two."""


@dataclass
class Result:
    """What a case led to."""

    metrics: list[dict[str, float]]
    nonfinite: list[list[int]]  # places in each batch
    weights: Mapping[str, Tensor]
    masters: set[torch.dtype]


def play(group: DataParallelGroup, case: Case) -> Result:
    model = tiny_model(case.family, dtype=case.dtype)
    if case.poison:
        with torch.no_grad():
            model.get_output_embeddings().weight[3] = math.nan
    if case.lora:
        add_lora(model)
    settings = {"lr": 0.1, "grad_clip": 1e9, "token_budget": BUDGET, **case.settings}
    learner = damped(StepLearner(model, algorithm=case.algorithm, group=group, **settings))
    metrics, nonfinite = [], []
    for step, batch in enumerate(make() for make in case.batches):
        metrics.append(learner.update(batch, step))
        nonfinite.append([batch.index(tree) for tree in learner.nonfinite_trees])
    weights: Mapping[str, Tensor] = model.state_dict()
    if group.world_size > 1:
        from at2po_agents.learner.fsdp import full_state

        weights = full_state(model.state_dict(keep_vars=True), case.dtype)
    return Result(metrics, nonfinite, weights, {p.dtype for p in learner.masters.parameters})


def play_all(group: DataParallelGroup, names: Sequence[str]) -> dict[str, Result]:
    return {name: play(group, CASES[name]) for name in names}


Shared = dict[int, list[dict[str, Result]]]


@pytest.fixture(scope="module")
def shared() -> Shared:
    """The results of two ranks and of three, which start once for all cases."""
    return {2: together(2, play_all, tuple(CASES)), 3: together(3, play_all, BY_THREE)}


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 2) for name in CASES), *((name, 3) for name in BY_THREE)]
)
def test_ranks_make_the_update_of_one_process(name: str, size: int, shared: Shared) -> None:
    case, alone = CASES[name], play(DataParallelGroup(), CASES[name])
    close = TOLERANCE[case.dtype]
    for rank in (each[name] for each in shared[size]):
        assert rank.nonfinite == alone.nonfinite
        assert rank.masters == alone.masters
        assert rank.weights.keys() == alone.weights.keys()
        for key, expected in alone.weights.items():
            torch.testing.assert_close(
                rank.weights[key], expected, rtol=0, atol=close, equal_nan=case.poison
            )
        for found, expected in zip(rank.metrics, alone.metrics, strict=True):
            assert found.keys() == expected.keys()
            compared = {
                key: value
                for key, value in expected.items()
                if name == "rows alone" or not key.startswith(BY_PACK)
            }
            assert {key: found[key] for key in compared} == pytest.approx(
                compared, rel=close, abs=close
            )


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 2) for name in CUT), *((name, 3) for name in BY_THREE)]
)
def test_a_tree_is_cut_among_all_ranks(name: str, size: int) -> None:
    case, held = CASES[name], []
    for batch in split(case.batches[0](), case.settings.get("mini_batches", 1)):
        found = partition_packs(batch, size, case.settings.get("token_budget", BUDGET))
        ids = [{id(part.tree) for pack in packs for part in pack} for packs in found]
        held.append(set.intersection(*ids))
    assert any(held)


def test_the_cases_are_what_they_are_called(shared: Shared) -> None:
    packs = [len(own) for own in partition_packs(uneven(), 2, BUDGET)]
    assert min(packs) > 0 and packs[0] != packs[1]
    results = shared[2][1]
    assert results["broken tree"].nonfinite == [[1], []]
    assert results["broken tree"].metrics[0]["skipped"] == 1
    assert results["broken tree"].metrics[0]["optimizer_steps"] == 1
    assert results["broken weights"].nonfinite == [[0, 1, 2, 3, 4]]
    assert results["fewer trees than ranks"].metrics[0]["optimizer_steps"] == 5
    assert results["no advantages"].metrics[1]["grad_norm"] == 0.0
    assert results["clipped gradient"].metrics[0]["grad_norm"] > 0.01
    assert results["bfloat16"].masters == {torch.float32}
    start = tiny_model().state_dict()
    assert all(
        any(not torch.equal(start[key], weights[key]) for key in start)
        for weights in (results[name].weights for name in ("atpo", "dapo", "gspo", "aepo"))
    )
