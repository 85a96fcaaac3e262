from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from at2po_agents import algorithms, losses
from at2po_agents.algorithms import ATPO
from at2po_agents.errors import ConfigError
from at2po_agents.packing import Rows, pack
from tests.at2po_agents.samples import random_tree


def one_row(turn: list[int], advantages: list[float]) -> Rows:
    """Build a batch of one row."""
    count = len(turn)
    return Rows(
        index=torch.arange(count)[None],
        mask=torch.ones(1, count, dtype=torch.bool),
        turn=torch.tensor([turn]),
        advantages=torch.tensor([advantages], dtype=torch.float64),
        rewards=torch.zeros(1, dtype=torch.float64),
        tree=torch.zeros(1, dtype=torch.int64),
        turns=max(turn) + 1,
        total_rows=1,
        total_tokens=count,
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
    ratio = losses.turn_ratio(rows, torch.tensor([[50.0]]), torch.tensor([[0.0]]))
    assert ratio.item() == pytest.approx(torch.tensor(10.0).exp().item())


@settings(deadline=None, max_examples=50)
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


@settings(deadline=None, max_examples=30)
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


def test_get_builds_by_name() -> None:
    assert algorithms.get("atpo", chains=4) == ATPO(chains=4)


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="found 'at2po'; did you mean 'atpo'"):
        algorithms.get("at2po")


@pytest.mark.parametrize(
    "settings", [{"clip_low": -0.1}, {"clip_high": float("nan")}, {"beam": 0}, {"value": "mean"}]
)
def test_bad_settings_are_refused_at_once(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ATPO(**settings)  # type: ignore[arg-type]
