from __future__ import annotations

import math
from dataclasses import replace
from statistics import pstdev, stdev
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from at2po_agents.algorithms import ATPO, GRPO, GSPO
from at2po_agents.errors import ConfigError
from at2po_agents.learner.packing import pack
from at2po_agents.objective import diagnostics, losses, ratios
from at2po_agents.objective.advantages import EPSILON
from at2po_agents.objective.rows import Rows
from tests.at2po_agents.objective.formulas import CLASSES, noise, one_row, rows_of, solve
from tests.at2po_agents.samples import random_tree

SPEC = [0.010, -0.004, 0.003, 0.0, -0.002]
CLIPPED = [0.013, -0.001, 0.006, 0.0, -0.002]


def spec_row(sign: float = 1.0) -> Rows:
    return one_row([0, 0, 0, 1, 1], [sign, sign, sign, -0.5, -0.5])


@pytest.mark.parametrize(
    ("delta", "sign", "loss", "first", "second"),
    [
        (SPEC, 1.0, -0.4020026, -0.2006009, 0.0999000),
        (CLIPPED, 1.0, -0.4025999, 0.0, 0.0999000),  # the first turn's ratio is above 1.004
        (CLIPPED, -1.0, 0.8034109, 1.00601804 / 5, 0.0999000),  # not clipped where it hurts
        ([-0.0031] * 5, -1.0, 0.7976, 0.0, 0.0),  # below 0.997
    ],
)
def test_vectors_of_the_released_code(
    delta: list[float], sign: float, loss: float, first: float, second: float
) -> None:
    old = torch.full((1, 5), -1.0, dtype=torch.float64)
    rows = spec_row(sign)
    found, gradient = solve(ATPO(), rows, old + torch.tensor([delta], dtype=torch.float64), old)
    assert found == pytest.approx(loss, abs=1e-7)
    assert gradient[0].tolist() == pytest.approx([first] * 3 + [second] * 2, abs=1e-7)
    assert (gradient == 0).tolist() == [[first == 0] * 3 + [second == 0] * 2]


def test_log_ratio_is_clamped_from_above() -> None:
    rows = one_row([0], [-1.0])
    ratio = ratios.turn_ratio(rows, torch.tensor([[50.0]]), torch.tensor([[0.0]]))
    assert ratio.item() == pytest.approx(torch.tensor(10.0).exp().item())


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_ratio_one_gives_minus_the_weighted_mean_advantage(seed: int) -> None:
    rows = pack([random_tree(seed)], dtype=torch.float64).rows
    out = ATPO().loss(rows, logp := torch.zeros(rows.mask.shape, dtype=torch.float64), logp)
    means = [
        row[mask].mean() if mask.any() else torch.tensor(0.0)
        for row, mask in zip(rows.advantages, rows.mask, strict=True)
    ]
    assert out.loss.item() == pytest.approx(-sum(means).item() / len(means), abs=1e-12)  # type: ignore
    assert out.per_row.sum().item() == pytest.approx(out.loss.item(), abs=1e-12)
    assert {k: v.item() for k, v in out.metrics.items() if k in ("clip_frac", "approx_kl")} == {
        "clip_frac": 0.0,
        "approx_kl": 0.0,
    }


def test_padding_never_reaches_loss_or_gradient() -> None:
    rows = one_row([0, 0, 0], [1.0, 1.0, 0.0])
    rows = replace(rows, mask=torch.tensor([[True, True, False]]))
    logp = torch.tensor([[-1.0, -2.0, torch.nan]], dtype=torch.float64, requires_grad=True)
    out = ATPO().loss(rows, logp, logp.detach())
    assert out.loss.item() == -1.0
    assert torch.autograd.grad(out.loss, logp)[0][0].tolist() == [-0.5, -0.5, 0.0]
    assert out.metrics["ratio_max"].item() == 1.0


def test_row_without_sampled_tokens_counts_as_zero() -> None:
    rows = replace(one_row([0], [1.0]), mask=torch.tensor([[False]]))
    out = ATPO().loss(rows, torch.zeros(1, 1), torch.zeros(1, 1))
    assert out.loss.item() == 0.0


def test_metrics_of_a_moved_policy() -> None:
    rows = one_row([0, 0, 1], [1.0, 1.0, -1.0])
    delta = torch.tensor([[0.01, 0.01, 0.001]], dtype=torch.float64)
    metrics = ATPO().loss(rows, delta, torch.zeros_like(delta)).metrics
    found = {name: value.item() for name, value in metrics.items()}
    kl, ratio = delta.exp() - delta - 1, delta.exp()
    assert found == pytest.approx(
        {
            "clip_frac": 2 / 3,
            "clip_frac_turn_1": 1.0,
            "clip_frac_turn_2": 0.0,
            "approx_kl": kl.mean().item(),
            "approx_kl_turn_1": kl[0, 0].item(),
            "approx_kl_turn_2": kl[0, 2].item(),
            "ratio_mean": ratio.mean().item(),
            "ratio_min": ratio.min().item(),
            "ratio_max": ratio.max().item(),
            "ratio_p01": found["ratio_p01"],
            "ratio_p50": ratio[0, 0].item(),
            "ratio_p99": ratio[0, 0].item(),
            "entropy": -0.007,
            "h_turn": found["h_turn"],
            "h_turn_released": found["h_turn_released"],
        }
    )


def test_sequence_ratio_of_the_specified_row() -> None:
    delta = torch.tensor([SPEC], dtype=torch.float64)
    ratio = ratios.sequence_ratio(spec_row(), delta, torch.zeros_like(delta))
    assert ratio[0].tolist() == pytest.approx([1.0014010] * 5, abs=1e-7)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_gspo_is_atpo_on_rows_of_one_turn(seed: int) -> None:
    rows = rows_of(seed)
    rows = replace(rows, turn=torch.zeros_like(rows.turn), turns=1)
    delta = noise(rows, seed, 1.0)
    bounds = {"clip_low": 0.1, "clip_high": 0.3}
    first, second = (
        solve(algorithm, rows, delta * 0.2, torch.zeros_like(delta))
        for algorithm in (ATPO(**bounds), GSPO(**bounds))
    )
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


@example(1785, 2, 1)  # rewards so close that EPSILON shows
@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(1, 3))
def test_leaf_mean_credit_is_grpo_on_rows_of_equal_length(seed: int, fan: int, depth: int) -> None:
    """At ratio 1 a shared token receives the same from both, up to their deviations."""
    tree = random_tree(seed, size=1)
    tree.root.children.clear()
    level, numbers = [tree.root], torch.Generator().manual_seed(seed)
    for _ in range(depth):
        level = [tree.add(node, sampled=[1, 2]) for node in level for _ in range(fan)]
    for leaf in level:
        leaf.reward = torch.randn(1, generator=numbers).item()
    gradients = []
    for algorithm in (ATPO(value="leaf_mean"), ATPO(advantage="rows")):
        algorithm.assign_credit(tree)
        packed = pack([tree], dtype=torch.float64)
        unique = torch.full((len(packed.targets),), -1.0, dtype=torch.float64, requires_grad=True)
        logp = packed.rows.gather(unique)
        loss = algorithm.loss(packed.rows, logp, logp.detach()).loss
        gradients.append(torch.autograd.grad(loss, unique)[0])
    rewards = [leaf.reward for leaf in level]
    factor = (stdev(rewards) + EPSILON) / (pstdev(rewards) + EPSILON)
    torch.testing.assert_close(gradients[0], gradients[1] * factor, rtol=1e-9, atol=1e-12)


def test_a_shared_turn_counts_once_or_once_per_leaf() -> None:
    tree = random_tree(0, size=1)
    tree.root.children.clear()
    shared = tree.add(tree.root, sampled=[1], advantage=1.0)
    for _ in range(4):
        tree.add(shared, sampled=[2], advantage=1.0, reward=0.0)
    packed = pack([tree], dtype=torch.float64)
    found = {}
    for how in ("leaves", "once"):
        unique = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        logp = packed.rows.gather(unique)
        loss = ATPO(shared=how).loss(packed.rows, logp, logp.detach()).loss
        found[how] = torch.autograd.grad(loss, unique)[0].tolist()
    assert found["leaves"] == pytest.approx([-0.5] + [-0.125] * 4)
    assert found["once"] == pytest.approx([-0.125] * 5)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_entropies_are_standardised_over_the_batch(seed: int) -> None:
    rows = replace(rows_of(seed), advantages=torch.ones_like(rows_of(seed).entropy))
    z = (losses.entropy_weighted(rows, 1.0).advantages - 1)[rows.mask]
    assert z.mean().item() == pytest.approx(0, abs=1e-9)
    if len(z) > 1 and rows.entropy[rows.mask].std() > 0:
        assert z.std().item() == pytest.approx(1, abs=1e-9)


def test_a_kl_term_without_reference_is_refused() -> None:
    with pytest.raises(ConfigError, match="kl_coef"):
        GRPO().loss(spec_row(), torch.zeros(1, 5), torch.zeros(1, 5))


DRAWN = [0.5, 0.1, -0.3, 2.0, 0.4]  # log pi_old - log mu
WEIGHTS = {"token": DRAWN, "turn": [0.1] * 3 + [1.2] * 2, "sequence": [0.54] * 5}
"""Their means by hand."""


@pytest.mark.parametrize("level", WEIGHTS)
@pytest.mark.parametrize("cap", [9.0, 2.0, 1.2, 0.5])  # above all weights, between, below most
def test_weights_of_stale_trees_by_hand(level: ratios.Ratio, cap: float) -> None:
    """Turns of A = 1 and -0.5 in a row of five tokens, at ratio 1."""
    old = torch.full((1, 5), -1.0, dtype=torch.float64)
    rows = replace(spec_row(), behavior_logprobs=old - torch.tensor([DRAWN], dtype=torch.float64))
    weights = [min(math.exp(x), cap) for x in WEIGHTS[level]]
    logp = old.clone().requires_grad_()
    out = ATPO(ratio=level, importance_cap=cap).loss(rows, logp, old)
    terms = [-a * w for a, w in zip([1, 1, 1, -0.5, -0.5], weights, strict=True)]
    assert out.loss.item() == pytest.approx(sum(terms) / 5, rel=1e-12)
    gradient = torch.autograd.grad(out.loss, logp)[0][0].tolist()
    assert gradient == pytest.approx([term / 5 for term in terms], rel=1e-12)
    raw = [math.exp(x) for x in WEIGHTS[level]]
    assert out.metrics["importance_mean"].item() == pytest.approx(sum(weights) / 5)
    assert out.metrics["importance_max"].item() == pytest.approx(max(raw))
    assert out.metrics["importance_cut"].item() == sum(w > cap for w in raw) / 5


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
@pytest.mark.parametrize("level", ratios.RATIOS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_correction_of_fresh_trees_changes_no_bit(cls: Any, level: str, seed: int) -> None:
    algorithm = cls(ratio=level)
    rows = rows_of(seed)
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(rows.mask.shape, generator=generator, dtype=torch.float64) - 2
    logp = (old + 4e-3 * torch.randn(old.shape, generator=generator)).requires_grad_()
    rows = replace(rows, ref_logprobs=old, behavior_logprobs=old)
    found = []
    for cap in (0.0, 1.0, 2.0):
        out = replace(algorithm, importance_cap=cap).loss(rows, logp, old)
        found.append((out, torch.autograd.grad(out.loss, logp)[0]))
    (plain, gradient), *corrected = found
    assert not any(name.startswith("importance") for name in plain.metrics)
    for out, its in corrected:
        assert torch.equal(out.loss, plain.loss) and torch.equal(its, gradient)
        assert torch.equal(out.per_row, plain.per_row)
        if rows.mask.any():
            assert out.metrics["importance_max"] == 1.0


def test_no_gradient_flows_through_the_weight() -> None:
    """Not even where the policy before the update is the one being trained."""
    rows = replace(spec_row(), behavior_logprobs=torch.full((1, 5), -3.0, dtype=torch.float64))
    old = torch.full((1, 5), -1.0, dtype=torch.float64, requires_grad=True)
    for level in ratios.RATIOS:
        assert not ratios.importance_weights(rows, old, level).requires_grad  # type: ignore[arg-type]


def test_padding_has_no_weight() -> None:
    rows = replace(one_row([0, 0, 0], [1.0, 1.0, 0.0]), mask=torch.tensor([[True, True, False]]))
    rows = replace(rows, behavior_logprobs=torch.tensor([[-2.0, -2.0, 0.0]], dtype=torch.float64))
    old = torch.tensor([[-1.0, -3.0, -50.0]], dtype=torch.float64)
    out = GRPO(kl_coef=0.0, importance_cap=2.0, aggregation="seq-mean-token-mean").loss(
        rows, old, old
    )
    assert out.loss.item() == pytest.approx(-(2 + math.exp(-1)) / 2)
    assert out.metrics["importance_max"].item() == pytest.approx(math.e)


def test_a_correction_without_probabilities_at_sampling_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="importance_cap needs rows.behavior_logprobs"):
        ATPO(importance_cap=2.0).loss(spec_row(), torch.zeros(1, 5), torch.zeros(1, 5))
    for cap in (-1.0, math.nan):
        with pytest.raises(ConfigError, match="importance_cap must be at least 0"):
            ATPO(importance_cap=cap)


def test_h_turn_as_released_and_sound() -> None:
    """Source: specification 4.5: turn sums .009 and -.002 give 0.6623."""
    delta = torch.tensor([[0.004, 0.003, 0.002, -0.001, -0.001]], dtype=torch.float64)
    assert diagnostics.h_turn_released(spec_row(), delta).item() == pytest.approx(0.6623, abs=1e-4)
    rows = one_row([0, 1], [1.0, 1.0])
    even = torch.tensor([[0.01, 0.01]], dtype=torch.float64)
    assert diagnostics.h_turn(rows, even).item() == pytest.approx(1.0)
    assert diagnostics.h_turn(rows, even * torch.tensor([1.0, 0.0])).item() == 0.0
    assert diagnostics.h_turn(rows, even * 0).isnan()
    assert diagnostics.h_turn_released(rows, even * 0).item() == 0.0
    assert diagnostics.h_turn(one_row([0, 0], [1.0, 1.0]), even).item() == 0.0


def test_metrics_of_packs_are_combined_by_tokens() -> None:
    nan = torch.tensor(float("nan"))
    packs = [
        {"a": torch.tensor(1.0), "a_max": torch.tensor(2.0), "only": torch.tensor(5.0)},
        {"a": torch.tensor(4.0), "a_max": torch.tensor(1.0), "none": nan},
        {"a": nan, "a_max": torch.tensor(0.0)},
    ]
    assert diagnostics.combine(packs, [1, 2, 7]) == {"a": 3.0, "a_max": 2.0, "only": 5.0}
