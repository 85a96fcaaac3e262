from __future__ import annotations

import math
from dataclasses import replace
from statistics import pstdev, stdev

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from at2po_agents.algorithms import AEPO, ATPO, GRPO, GSPO, ClippedLoss
from at2po_agents.errors import ConfigError
from at2po_agents.learner.packing import pack
from at2po_agents.objective import diagnostics, losses, ratios
from at2po_agents.objective.advantages import EPSILON
from at2po_agents.objective.rows import Rows
from at2po_envs import Outcome
from tests.at2po_agents.samples import random_tree


def one_row(turn: list[int], advantages: list[float]) -> Rows:
    """Build a batch of one row."""
    count = len(turn)
    return Rows(
        index=torch.arange(count)[None],
        mask=torch.ones(1, count, dtype=torch.bool),
        turn=torch.tensor([turn]),
        advantages=torch.tensor([advantages], dtype=torch.float64),
        entropy=torch.zeros(1, count, dtype=torch.float64),
        row_count=torch.ones(1, count, dtype=torch.int64),
        rewards=torch.zeros(1, dtype=torch.float64),
        truncated=torch.zeros(1, dtype=torch.bool),
        tree=torch.zeros(1, dtype=torch.int64),
        turns=max(turn) + 1,
        total_rows=1,
        total_tokens=count,
        entropy_mean_std=(0.0, 1.0),
    )


def solve(rows: Rows, delta: Tensor, algorithm: ATPO | None = None) -> tuple[float, Tensor]:
    """Return the ATPO loss and its gradient with respect to the log-probabilities."""
    old = torch.full_like(delta, -1.0)
    logp = (old + delta).requires_grad_()
    loss = (algorithm or ATPO()).loss(rows, logp, old).loss
    return loss.item(), torch.autograd.grad(loss, logp)[0]


SPEC = [0.010, -0.004, 0.003, 0.0, -0.002]


def spec_row(sign: float = 1.0) -> Rows:
    return one_row([0, 0, 0, 1, 1], [sign, sign, sign, -0.5, -0.5])


def test_vector_of_the_released_code() -> None:
    loss, gradient = solve(spec_row(), torch.tensor([SPEC], dtype=torch.float64))
    assert loss == pytest.approx(-0.4020026, abs=1e-7)
    assert gradient[0].tolist() == pytest.approx([-0.2006009] * 3 + [0.0999000] * 2, abs=1e-7)


def test_clipped_turn_has_exactly_zero_gradient() -> None:
    delta = torch.tensor([[0.013, -0.001, 0.006, 0.0, -0.002]], dtype=torch.float64)
    loss, gradient = solve(spec_row(), delta)
    assert loss == pytest.approx(-0.4025999, abs=1e-7)
    assert gradient[0, :3].tolist() == [0.0] * 3
    assert gradient[0, 3:].tolist() == pytest.approx([0.0999000] * 2, abs=1e-7)


def test_large_ratio_is_not_clipped_where_it_hurts() -> None:
    delta = torch.tensor([[0.013, -0.001, 0.006, 0.0, -0.002]], dtype=torch.float64)
    _, gradient = solve(spec_row(sign=-1.0), delta)
    assert gradient[0, :3].tolist() == pytest.approx([1.00601804 / 5] * 3, abs=1e-7)


def test_small_ratio_is_clipped_for_negative_advantages() -> None:
    delta = torch.full((1, 2), -0.0031, dtype=torch.float64)
    loss, gradient = solve(one_row([0, 0], [-1.0, -1.0]), delta)
    assert gradient.abs().max() == 0.0
    assert loss == pytest.approx(0.997)


def test_log_ratio_is_clamped_from_above() -> None:
    rows = one_row([0], [-1.0])
    ratio = ratios.turn_ratio(rows, torch.tensor([[50.0]]), torch.tensor([[0.0]]))
    assert ratio.item() == pytest.approx(torch.tensor(10.0).exp().item())


@settings(max_examples=50)
@given(st.integers(0, 2**32))
def test_gradient_is_the_closed_form(seed: int) -> None:
    """Each token's gradient is -A s / (|y| G), or 0 where the turn is clipped."""
    rows = pack([random_tree(seed), random_tree(seed + 1)], dtype=torch.float64).rows
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(rows.mask.shape, generator=generator, dtype=torch.float64) * 4e-3
    _, gradient = solve(rows, delta)
    for row, turns in enumerate(rows.turn):
        mask = rows.mask[row]
        for turn in turns[mask].unique():
            own = mask & (turns == turn)
            ratio = delta[row, own].mean().exp()
            advantage = rows.advantages[row, own][0]
            cut = ratio > 1.004 if advantage > 0 else ratio < 0.997
            expected = 0.0 if cut else -advantage * ratio / mask.sum() / rows.total_rows
            torch.testing.assert_close(
                gradient[row, own], torch.zeros_like(delta[row, own]) + expected
            )
        assert not gradient[row, ~mask].any()


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
    rows = one_row([0, 1, 2], [1.0, -1.0, 1.0])
    delta = torch.tensor([[0.01, -0.01, 0.001]], dtype=torch.float64)
    metrics = ATPO().loss(rows, delta, torch.zeros_like(delta)).metrics
    assert metrics["clip_frac"].item() == pytest.approx(2 / 3)
    assert metrics["ratio_min"].item() == pytest.approx(delta.min().exp().item())
    assert metrics["ratio_max"].item() == pytest.approx(delta.max().exp().item())
    assert metrics["ratio_mean"].item() == pytest.approx(delta.exp().mean().item())
    kl = (delta.exp() - delta - 1).mean().item()
    assert metrics["approx_kl"].item() == pytest.approx(kl)
    assert kl > 0


ALL = [
    ATPO(),
    ATPO(ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=1.5),
    ATPO(aggregation="turn-mean", shared="once"),
    ATPO(ratio="sequence", mask_truncated=True),
    GRPO(),
    GRPO(kl_coef=0.3, kl="k1", shared="once"),
    GSPO(),
    AEPO(),
    AEPO(variant="released", clip_low=0.1, dual_clip=1.2),
    ATPO(importance_cap=1.5),
    ATPO(kl_coef=0.2, mask_truncated=True),
    ATPO(kl_coef=0.2, aggregation="turn-mean", shared="once"),
    AEPO(kl_coef=0.2, aggregation="seq-mean-token-mean"),
    GRPO(importance_cap=1.1, kl_coef=0.3, shared="once"),
    GSPO(importance_cap=1.01),
]


def rows_of(seed: int, **changes: object) -> Rows:
    """Pack two random trees, some of whose rows were cut off."""
    trees = [random_tree(seed, size=12), random_tree(seed + 1)]
    for number, leaf in enumerate(leaf for tree in trees for leaf in tree.leaves()):
        leaf.outcome = Outcome(False, 0.0, True, truncated=number % 3 == 0)
    return replace(pack(trees, dtype=torch.float64).rows, **changes)  # type: ignore[arg-type]


def closed_form(algorithm: ClippedLoss, rows: Rows, logp: Tensor, old: Tensor) -> Tensor:
    """The gradient by token, spelled out. Source: specification 4.2, 5 and 5.6."""
    gradient = torch.zeros_like(logp)
    reference = rows.ref_logprobs if rows.ref_logprobs is not None else logp
    counted = rows.mask.clone()
    if algorithm.mask_truncated:
        counted[rows.truncated] = False
    level = {
        "token": lambda r, t: torch.arange(len(rows.mask[r])) == t,
        "turn": lambda r, t: counted[r] & (rows.turn[r] == rows.turn[r, t]),
        "sequence": lambda r, t: counted[r],
    }[algorithm.ratio]
    for r, t in counted.nonzero().tolist():
        s = (logp - old)[r, level(r, t)].mean().exp().item()
        a = rows.advantages[r, t].item()
        if isinstance(algorithm, AEPO) and algorithm.variant == "designed":
            mean, deviation = rows.entropy_mean_std
            a *= 1 + 0.2 * (rows.entropy[r, t].item() - mean) / deviation
        g = -a * s
        if a > 0 and s > 1 + algorithm.clip_high:
            g = -a * (1 + algorithm.clip_high) if algorithm.soft_upper_clip else 0.0
        if a < 0 and (s < 1 - algorithm.clip_low or 0 < algorithm.dual_clip < s):
            g = 0.0
        if algorithm.importance_cap and rows.behavior_logprobs is not None:
            weight = (old - rows.behavior_logprobs)[r, level(r, t)].mean().exp().item()
            g *= min(weight, algorithm.importance_cap)
        if algorithm.kl_coef:
            k3 = 1 - (reference - logp)[r, t].exp().item()
            g += algorithm.kl_coef * (1 if algorithm.kl == "k1" else k3)
        own = counted[r] & (rows.turn[r] == rows.turn[r, t])
        g /= {
            "token-mean": rows.total_tokens,
            "seq-mean-token-mean": counted[r].sum().item() * rows.total_rows,
            "turn-mean": own.sum().item()
            * len(rows.turn[r, counted[r]].unique())
            * rows.total_rows,
        }[algorithm.aggregation]
        if algorithm.shared == "once":
            g /= rows.row_count[r, t].item()
        gradient[r, t] = g
    return gradient


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.name)
@pytest.mark.parametrize("scale", [3e-4, 4e-3, 0.4])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_every_gradient_is_the_closed_form(algorithm: ClippedLoss, scale: float, seed: int) -> None:
    rows = rows_of(seed)
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(rows.mask.shape, generator=generator, dtype=torch.float64) * scale

    old = noise() - 2
    logp = (old + noise()).requires_grad_()
    rows = replace(rows, ref_logprobs=old + noise(), behavior_logprobs=old + noise())
    loss = algorithm.loss(rows, logp, old).loss
    gradient = torch.autograd.grad(loss, logp)[0]
    expected = closed_form(algorithm, rows, logp.detach(), old)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_sequence_ratio_of_the_specified_row() -> None:
    delta = torch.tensor([SPEC], dtype=torch.float64)
    ratio = ratios.sequence_ratio(spec_row(), delta, torch.zeros_like(delta))
    assert ratio[0].tolist() == pytest.approx([1.0014010] * 5, abs=1e-7)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_gspo_is_atpo_on_rows_of_one_turn(seed: int) -> None:
    rows = rows_of(seed)
    rows = replace(rows, turn=torch.zeros_like(rows.turn), turns=1)
    delta = torch.randn(
        rows.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    bounds = {"clip_low": 0.1, "clip_high": 0.3}
    first, second = (
        solve(rows, delta * 0.2, algorithm) for algorithm in (ATPO(**bounds), GSPO(**bounds))
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


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.name)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_correction_of_fresh_trees_changes_no_bit(algorithm: ClippedLoss, seed: int) -> None:
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


def test_the_weight_leaves_the_kl_term_alone() -> None:
    rows = replace(one_row([0], [0.0]), behavior_logprobs=torch.tensor([[-9.0]]).double())
    rows = replace(rows, ref_logprobs=torch.tensor([[-2.0]]).double())
    logp = torch.tensor([[-1.0]]).double()
    plain, weighed = (
        GRPO(kl_coef=0.5, importance_cap=cap).loss(rows, logp, logp).loss for cap in (0.0, 9.0)
    )
    assert plain.item() == weighed.item() > 0


def test_padding_has_no_weight() -> None:
    rows = replace(one_row([0, 0, 0], [1.0, 1.0, 0.0]), mask=torch.tensor([[True, True, False]]))
    rows = replace(rows, behavior_logprobs=torch.tensor([[-2.0, -2.0, 0.0]], dtype=torch.float64))
    old = torch.tensor([[-1.0, -3.0, -50.0]], dtype=torch.float64)
    out = GRPO(kl_coef=0.0, importance_cap=2.0, aggregation="turn-mean").loss(rows, old, old)
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


def test_figures_by_turn_and_quantiles() -> None:
    rows = one_row([0, 0, 1], [1.0, 1.0, -1.0])
    delta = torch.tensor([[0.01, 0.01, 0.001]], dtype=torch.float64)
    metrics = ATPO().loss(rows, delta, torch.zeros_like(delta)).metrics
    assert metrics["clip_frac_turn_1"].item() == 1.0
    assert metrics["clip_frac_turn_2"].item() == 0.0
    assert metrics["approx_kl_turn_2"].item() == pytest.approx(0.001**2 / 2, rel=1e-3)
    assert metrics["ratio_p50"].item() == pytest.approx(delta[0, 0].exp().item())
    assert metrics["entropy"].item() == pytest.approx(-0.007)


def test_metrics_of_packs_are_combined_by_tokens() -> None:
    nan = torch.tensor(float("nan"))
    packs = [
        {"a": torch.tensor(1.0), "a_max": torch.tensor(2.0), "only": torch.tensor(5.0)},
        {"a": torch.tensor(4.0), "a_max": torch.tensor(1.0), "none": nan},
        {"a": nan, "a_max": torch.tensor(0.0)},
    ]
    assert diagnostics.combine(packs, [1, 2, 7]) == {"a": 3.0, "a_max": 2.0, "only": 5.0}
