"""Losses against a second implementation, in plain Python: KL terms, and ratios far from 1."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from at2po_agents.algorithms import AEPO, GRPO
from at2po_agents.objective import losses
from tests.at2po_agents.objective.formulas import CLASSES, by_hand, noise, one_row, rows_of, solve

LEVELS = ("token", "turn", "sequence")


def double(x: float) -> Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


@pytest.mark.parametrize("aggregation", losses.AGGREGATIONS)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([3e-4, 4e-3, 0.4]),
    ratio=st.sampled_from(LEVELS),
    mask_truncated=st.booleans(),
    shared=st.sampled_from(["leaves", "once"]),
    kl_coef=st.sampled_from([0.0, 0.3]),
    importance_cap=st.sampled_from([0.0, 1.01, 1.5]),
    dual_clip=st.sampled_from([0.0, 1.2, 3.0]),
)
def test_every_loss_and_gradient_is_that_of_the_formulas(
    cls: type[Any], aggregation: str, seed: int, scale: float, **settings: Any
) -> None:
    algorithm = cls(aggregation=aggregation, **settings)
    rows = rows_of(seed)
    old = noise(rows, seed, scale) - 2
    logp = old + noise(rows, seed + 1, scale)
    rows = replace(
        rows,
        ref_logprobs=logp + noise(rows, seed + 2, 5 * scale),
        behavior_logprobs=old + noise(rows, seed + 3, scale),
    )
    loss, gradient = solve(algorithm, rows, logp, old)
    expected, slopes = by_hand(algorithm, rows, logp, old)
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-12)


def test_the_kept_gradient_of_the_soft_clip_outlives_every_ratio() -> None:
    rows, old = one_row([0], [1.0]), double(-1.0)
    for level, delta in product(LEVELS, (0.2, 9.9, 10.1, 11.0, 89.0, 710.0, 1e4)):
        loss, gradient = solve(AEPO(variant="released", ratio=level), rows, old + delta, old)
        assert loss == pytest.approx(-1.2)
        assert gradient.item() == pytest.approx(-1.2)


EXTREMES = (-1e4, -750.0, -105.0, -11.0, -0.3, 0.0, 0.3, 1.3, 9.0, 11.0, 60.0, 105.0, 750.0, 1e4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dual_clip", [0.0, 3.0])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("advantage", [-1.5, 0.0, 1.5])
def test_value_and_gradient_of_one_token_at_any_ratio(
    level: str, dual_clip: float, soft: bool, advantage: float, dtype: torch.dtype
) -> None:
    algorithm = GRPO(ratio=level, dual_clip=dual_clip, soft_upper_clip=soft, kl_coef=0.0)
    limit = 0.99 * math.log(torch.finfo(dtype).max)
    for delta in EXTREMES:
        rows = one_row([0], [advantage])
        rows = replace(rows, advantages=rows.advantages.to(dtype))
        old = torch.tensor([[-0.5]], dtype=dtype)
        loss, gradient = solve(algorithm, rows, old + delta, old)
        expected, slope = by_hand(algorithm, rows, double(min(delta, limit)), double(0.0))
        # Rounding of the sum old + delta in float32 counts as often as the ratio is large.
        close = {"rel": 1e-3 if dtype == torch.float32 else 1e-9, "abs": 1e-30}
        assert loss == pytest.approx(expected, **close), delta
        assert gradient.item() == pytest.approx(slope.item(), **close), delta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_value_and_gradient_of_the_kl_at_any_distance(dtype: torch.dtype) -> None:
    algorithm = GRPO(kl_coef=0.7)
    for delta in EXTREMES:
        old = torch.tensor([[-0.5]], dtype=dtype)
        rows = replace(one_row([0], [0.0]), ref_logprobs=old + delta)
        rows = replace(rows, advantages=rows.advantages.to(dtype))
        loss, gradient = solve(algorithm, rows, old, old)
        rows = replace(rows, ref_logprobs=double(delta))
        expected, slope = by_hand(algorithm, rows, double(0.0), double(0.0))
        assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6), delta
        assert gradient.item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-6), delta


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=6)
@given(st.integers(0, 2**32), st.sampled_from([0.01, 1.0, 12.0]))
def test_gradients_are_those_of_finite_differences(
    level: str, soft: bool, seed: int, scale: float
) -> None:
    """Of the value, by the token's own ratio; what is kept on purpose is compared by hand."""
    rows = rows_of(seed)
    old = noise(rows, seed, 1.0) - 2
    logp = old + noise(rows, seed + 1, scale)
    rows = replace(rows, ref_logprobs=logp + noise(rows, seed + 2, scale))
    algorithm = GRPO(ratio=level, soft_upper_clip=soft, dual_clip=0.0, kl_coef=0.2)
    loss, gradient = solve(algorithm, rows, logp, old)
    expected, slopes = by_hand(algorithm, rows, logp, old)
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-12)
    if soft or level != "token":
        return  # their gradient is by design not that of their value
    step = 1e-6
    for r, t in rows.mask.nonzero().tolist()[:6]:
        up, down = logp.clone(), logp.clone()
        up[r, t] += step
        down[r, t] -= step
        slope = (by_hand(algorithm, rows, up, old)[0] - by_hand(algorithm, rows, down, old)[0]) / (
            2 * step
        )
        size = max(1.0, abs(loss))
        assert gradient[r, t].item() == pytest.approx(slope, rel=1e-4, abs=1e-7 * size)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize(
    ("logp", "old"),
    [(math.nan, -1), (-1, math.nan), (-math.inf, -1), (-1, -math.inf), (-math.inf, -math.inf)],
)
def test_what_is_no_number_is_never_clipped_away(
    level: str, soft: bool, advantage: float, logp: float, old: float
) -> None:
    """The loss is NaN, so that the learner skips the update and names the tree."""
    algorithm = GRPO(ratio=level, soft_upper_clip=soft, kl_coef=0.0)
    now, before = (double(x) for x in (logp, old))
    assert algorithm.loss(one_row([0], [advantage]), now, before).per_row.isnan().all()


@pytest.mark.parametrize("reference", [math.nan, math.inf, -math.inf])
def test_a_reference_that_is_no_number_is_never_clamped_away(reference: float) -> None:
    rows = replace(one_row([0], [0.0]), ref_logprobs=double(reference))
    logp = double(-1.0)
    assert GRPO().loss(rows, logp, logp).per_row.isnan().all()
