from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from at2po_agents.algorithms import AEPO, ATPO, DAPO, GRPO
from at2po_agents.errors import ConfigError, TreeError
from at2po_agents.learner.learner import Learner
from at2po_agents.learner.logprobs import flat_logprobs
from at2po_agents.objective.losses import LossOutput
from at2po_agents.objective.rows import Rows
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.samples import (
    VOCABULARY,
    StepLearner,
    damped,
    flat_rows,
    flat_tree,
    tiny_model,
    trees,
)

# Wide clip bounds: small models move far in one step, and clipped turns would hide differences.
WIDE = ATPO(clip_low=0.9, clip_high=9.0)


def learner(model: PreTrainedModel | None = None, **settings: Any) -> Learner:
    """Build a learner that takes visible steps."""
    defaults: dict[str, Any] = {"algorithm": WIDE, "lr": 0.1, "grad_clip": 1e9}
    return damped(StepLearner(model or tiny_model(), **{**defaults, **settings}))


def weights(model: PreTrainedModel) -> Tensor:
    """Return all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def assert_same(one: PreTrainedModel, two: PreTrainedModel, atol: float = 1e-9) -> None:
    torch.testing.assert_close(weights(one), weights(two), rtol=0, atol=atol)


def flat_update(model: PreTrainedModel, batch: list[RolloutTree], lr: float) -> float:
    """Take one ATPO step the slow way: every row its own sequence, the formula spelled out."""
    for tree in batch:
        WIDE.assign_credit(tree)
    losses = []
    for tree in batch:
        for row, logp in zip(tree.rows(), flat_logprobs(model, tree.rows()), strict=True):
            turns = row.leaf.path()[1:]
            advantages = [turn.advantage for turn in turns for _ in turn.sampled]
            # Before the first step every ratio is 1 and its gradient that of logp.
            terms = -torch.tensor(advantages, dtype=logp.dtype) * (logp - logp.detach() + 1)
            losses.append(terms.sum() / max(1, len(terms)))
    loss = torch.stack(losses).mean()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, eps=1.0)
    loss.backward()
    optimizer.step()
    return loss.item()


@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_update_equals_the_flat_reference(seed: int) -> None:
    batch, ours, reference = trees(2, seed), tiny_model(), tiny_model()
    loss = flat_update(reference, batch, lr=0.1)
    metrics = learner(ours).update(batch)
    assert metrics["loss"] == pytest.approx(loss, abs=1e-9)
    assert_same(ours, reference)


def test_packs_add_up_to_one_mini_batch() -> None:
    batch, whole, parts = trees(5), tiny_model(), tiny_model()
    one = learner(whole).update(batch)
    many = learner(parts, token_budget=1).update(batch)
    # Each row goes alone, with all that it shares.
    assert (one.pop("trained_tokens"), many.pop("trained_tokens")) == (
        one["unique_tokens"],
        many["row_tokens"],
    )
    assert one == pytest.approx(many, abs=1e-9)
    assert one["optimizer_steps"] == many["optimizer_steps"] == 1
    assert_same(whole, parts)


@dataclass(frozen=True, kw_only=True)
class Recorder(ATPO):
    """ATPO that keeps what its loss was given."""

    calls: Any

    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        self.calls.append((rows, logp.detach(), old))
        return super().loss(rows, logp, old)


def test_mini_batches_share_the_policy_before_the_update() -> None:
    batch, model, calls = trees(4), tiny_model(), []
    before = [flat_logprobs(model, flat_rows([tree])) for tree in batch]
    algorithm = Recorder(clip_low=0.9, clip_high=9.0, calls=calls)
    metrics = learner(model, algorithm=algorithm, mini_batches=2).update(batch)
    assert metrics["optimizer_steps"] == 2
    (first, first_new, first_old), (second, second_new, second_old) = calls
    assert torch.equal(first_new, first_old)
    assert not torch.allclose(second_new, second_old)
    for rows, old, part in ((first, first_old, before[:2]), (second, second_old, before[2:])):
        expected = torch.cat([row for tree in part for row in tree])
        torch.testing.assert_close(old[rows.mask], expected, rtol=0, atol=1e-9)
    assert first.total_rows == sum(len(tree.leaves()) for tree in batch[:2])
    assert second.total_rows == sum(len(tree.leaves()) for tree in batch[2:])


def test_more_mini_batches_than_trees_step_once_per_tree() -> None:
    batch, model = trees(2), tiny_model()
    assert learner(model, mini_batches=8).update(batch)["optimizer_steps"] == 2


@pytest.mark.parametrize("mini_batches", [1, 2, 4])
def test_leaving_out_trees_without_advantage_changes_nothing(
    mini_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    credited = trees(2)
    batch = [flat_tree(1), credited[0], flat_tree(2), flat_tree(3), credited[1], flat_tree(4)]
    skip, full = tiny_model(), tiny_model()
    metrics = learner(skip, mini_batches=mini_batches).update(batch)
    monkeypatch.setattr("at2po_agents.learner.learner.carries_credit", lambda tree: True)
    everything = learner(full, mini_batches=mini_batches).update(batch)
    assert everything["trained_tokens"] == everything["unique_tokens"]
    assert metrics["loss"] == pytest.approx(everything["loss"], abs=1e-9)
    assert metrics["zero_variance_trees"] == 4
    assert metrics["trained_tokens"] == sum(tree.unique_tokens for tree in credited)
    assert metrics["unique_tokens"] == sum(tree.unique_tokens for tree in batch)
    assert_same(skip, full)


def test_batch_without_any_advantage_still_steps() -> None:
    """Momentum and weight decay act as they would if the trees had been processed."""
    model = tiny_model()
    ours = learner(model)
    ours.update(trees(2))
    before = weights(model)
    metrics = ours.update([flat_tree(1)])
    assert (metrics["loss"], metrics["grad_norm"], metrics["optimizer_steps"]) == (0.0, 0.0, 1)
    assert "clip_frac" not in metrics
    assert not torch.equal(before, weights(model))


def test_broken_tree_is_handed_back_and_the_step_skipped() -> None:
    batch, model = trees(3), tiny_model()
    before = weights(model)
    batch[1].leaves()[0].reward = float("inf")
    ours = learner(model)
    metrics = ours.update(batch)
    assert (metrics["skipped"], metrics["optimizer_steps"]) == (1, 0)
    assert ours.nonfinite_trees == [batch[1]]
    assert "loss" not in metrics
    assert all(value == value for value in metrics.values())
    assert torch.equal(before, weights(model))
    batch[1].leaves()[0].reward = 0.0
    assert ours.update(batch)["skipped"] == 0
    assert ours.nonfinite_trees == []


@pytest.mark.parametrize(
    ("settings", "taken"), [({"mini_batches": 2}, 1), ({"token_budget": 1}, 0), ({}, 0)]
)
def test_only_the_broken_mini_batch_is_skipped(settings: dict[str, int], taken: int) -> None:
    """Be its trees whole or cut."""
    batch = trees(2)
    batch[0].leaves()[0].reward = float("nan")
    ours = learner(**settings)
    metrics = ours.update(batch)
    assert (metrics["skipped"], metrics["optimizer_steps"]) == (1, taken)
    assert ours.nonfinite_trees == [batch[0]]


@pytest.mark.parametrize("logprobs", [[], [-1.0], [float("nan")] * 9, [float("-inf")] * 9])
def test_a_tree_without_entropies_spoils_no_other_one(logprobs: list[float]) -> None:
    """AEPO standardises the entropies of a whole mini-batch."""
    batch = trees(2)
    node = next(n for n in batch[0].nodes() if len(n.sampled) > 1 and n.is_leaf)
    node.logprobs = logprobs[: max(1, len(node.sampled))] if len(logprobs) == 9 else logprobs
    ours = StepLearner(tiny_model(), algorithm=AEPO())
    assert ours.update(batch)["skipped"] == 1
    assert ours.nonfinite_trees == [batch[0]]


@pytest.mark.parametrize("reward", [1e101, 1e200, -1.7e308])
def test_a_reward_of_any_size_is_learned_from(reward: float) -> None:
    batch = trees(2)
    batch[0].leaves()[0].reward = reward
    for algorithm in (ATPO(), GRPO(kl_coef=0.0), DAPO()):
        ours = StepLearner(tiny_model(), algorithm=algorithm)
        assert ours.update(batch[:1])["optimizer_steps"] == 1


def test_broken_weights_hand_back_every_tree() -> None:
    batch, model = trees(2), tiny_model()
    with torch.no_grad():
        next(model.parameters())[:] = torch.nan
    ours = learner(model)
    assert ours.update(batch)["skipped"] == 1
    assert ours.nonfinite_trees == batch


def test_large_gradients_are_clipped() -> None:
    batch, reference = trees(2), learner(betas=(0.0, 0.999))
    norm = reference.update(batch)["grad_norm"]
    ours = learner(betas=(0.0, 0.999), grad_clip=norm / 4)
    assert ours.update(batch)["grad_norm"] == pytest.approx(norm)
    for one, four in zip(
        ours.optimizer.state.values(), reference.optimizer.state.values(), strict=True
    ):
        torch.testing.assert_close(one["exp_avg"] * 4, four["exp_avg"], rtol=1e-4, atol=1e-12)


def test_gradient_checkpointing_changes_nothing() -> None:
    batch, plain, saving = trees(2), tiny_model(), tiny_model()
    learner(plain).update(batch)
    learner(saving, gradient_checkpointing=True).update(batch)
    assert_same(plain, saving)
    assert not saving.training


def test_warmup_raises_the_rate_linearly() -> None:
    ours = learner(lr=1e-3, warmup=4)
    batch = trees(1)
    assert [ours.update(batch, step)["lr"] for step in (0, 1, 3, 9)] == [2.5e-4, 5e-4, 1e-3, 1e-3]


def test_repeated_updates_agree_bit_for_bit_on_two_threads() -> None:
    """One long turn shared by many rows: its gradients are sums that threads could reorder."""
    tree = RolloutTree("q", [1, 2, 3])
    ids = [token % VOCABULARY for token in range(200)]
    shared = tree.add(tree.root, sampled=ids, logprobs=[-1.0] * len(ids))
    for token in ids[:60]:
        tree.add(shared, sampled=[token, 7], logprobs=[-1.0, -1.0], reward=float(token % 3))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(2):
            model = tiny_model(dtype=torch.float32)
            metrics = learner(model).update([tree])
            found.append((weights(model), metrics))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_restored_state_continues_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    batch, model = trees(2), tiny_model(dtype=dtype)
    ours = learner(model, lr=1e-3)
    ours.update(batch)
    copy = tiny_model(seed=1, dtype=dtype)
    copy.load_state_dict(model.state_dict())
    again = learner(copy, lr=1e-3)
    torch.save(ours.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(3):
        ours.update(batch)
        again.update(batch)
    for one, two in zip(ours.masters.parameters, again.masters.parameters, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(weights(model), weights(copy))


@pytest.mark.parametrize(
    "setting", [{"mini_batches": 0}, {"token_budget": 0}, {"lr": 0.0}, {"grad_clip": float("nan")}]
)
def test_bad_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        learner(**setting)


def test_tree_without_sampled_tokens_is_left_out() -> None:
    tree = RolloutTree("q", [1])
    for reward in (0.0, 1.0):
        tree.add(tree.root, reward=reward)
    metrics = learner().update([tree, *trees(1)])
    assert metrics["zero_variance_trees"] == 1


def test_empty_update_is_refused() -> None:
    with pytest.raises(TreeError, match="at least one tree"):
        learner().update([])
