"""How far an update moved the policy: figures over the sampled tokens of rows, never a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from at2po_agents.objective.rows import Rows

QUANTILES = {"p01": 0.01, "p50": 0.50, "p99": 0.99}
"""Quantiles of the importance ratio, by the end of their metrics' names."""


def measure(
    rows: Rows, ratio: Tensor, logp: Tensor, old: Tensor, low: float, high: float
) -> dict[str, Tensor]:
    """Measure a policy against the one that sampled.

    Args:
        rows: The rows.
        ratio: [R, T] importance ratios.
        logp: [R, T] log-probabilities under the policy being trained, in nats.
        old: [R, T] log-probabilities under the policy that sampled, in nats.
        low: Lower clip distance of the loss.
        high: Upper clip distance of the loss.

    Returns:
        Detached scalars; NaN where there was nothing to measure. clip_frac, ratio_mean, ratio_min,
        ratio_max, ratio_p01 to ratio_p99, approx_kl (k3 estimate of KL(old || new) per token, in
        nats), entropy (mean -log p of the sampled tokens, in nats), clip_frac and approx_kl by turn
        (`_turn_1` is the first turn of a row), and h_turn and h_turn_released.

    Source: k3 is GRPO's (arXiv 2402.03300), Eq. 4: exp(d) - d - 1 with d = logp - old.
    """
    ratio, delta = ratio.detach(), logp.detach() - old.detach()
    up, down = rows.advantages > 0, rows.advantages < 0
    cut = ((up & (ratio > 1 + high)) | (down & (ratio < 1 - low))).to(ratio.dtype)
    kl = delta.exp() - delta - 1
    known = torch.where(rows.mask, ratio, torch.nan)
    quantiles = known.nanquantile(ratio.new_tensor(list(QUANTILES.values())))
    by_turn = {"clip_frac": turn_sums(rows, cut).sum(0), "approx_kl": turn_sums(rows, kl).sum(0)}
    tokens = turn_sums(rows, torch.ones_like(kl)).sum(0)
    return {
        "clip_frac": _mean(rows, cut),
        "ratio_mean": _mean(rows, ratio),
        "ratio_min": torch.where(rows.mask, ratio, torch.inf).amin(),
        "ratio_max": torch.where(rows.mask, ratio, -torch.inf).amax(),
        **{f"ratio_{name}": q for name, q in zip(QUANTILES, quantiles, strict=True)},
        "approx_kl": _mean(rows, kl),
        "entropy": _mean(rows, -logp.detach()),
        **{
            f"{name}_turn_{number + 1}": sums[number] / tokens[number]
            for name, sums in by_turn.items()
            for number in range(rows.turns)
        },
        "h_turn": h_turn(rows, delta),
        "h_turn_released": h_turn_released(rows, delta),
    }


def measure_importance(rows: Rows, ratio: Tensor, cap: float) -> dict[str, Tensor]:
    """Measure the weights that correct for trees from older weights.

    Args:
        rows: The rows.
        ratio: [R, T] what `ratios.importance_weights` returned.
        cap: Upper limit of the weight.

    Returns:
        Detached scalars over the sampled tokens: importance_mean (the weight, after the limit),
        importance_max (the largest ratio before it) and importance_cut (share of tokens over it).
    """
    return {
        "importance_mean": _mean(rows, ratio.clamp(max=cap)),
        "importance_max": torch.where(rows.mask, ratio, -torch.inf).amax(),
        "importance_cut": _mean(rows, (ratio > cap).to(ratio.dtype)),
    }


def combine(measured: Sequence[Mapping[str, Tensor]], tokens: Sequence[int]) -> dict[str, float]:
    """Reduce the metrics of several packs to one number each.

    Args:
        measured: What `measure` (or a loss of one's own) returned for each pack.
        tokens: Sampled row tokens of each pack.

    Returns:
        The extreme for names that end in `_min` or `_max`, else the mean weighted by tokens over
        the packs that have the metric. What was not measured or is not finite is left out.
    """
    combined = {}
    for name in dict.fromkeys(name for metrics in measured for name in metrics):
        found = [(m[name], n) for m, n in zip(measured, tokens, strict=True) if name in m]
        values = torch.stack([value for value, _ in found])
        if name.endswith("_min"):
            value = values.min()
        elif name.endswith("_max"):
            value = values.max()
        else:
            weights = values.new_tensor([count for _, count in found])
            weights = torch.where(values.isnan(), 0.0, weights)
            value = (values.nan_to_num(nan=0.0) * weights).sum() / weights.sum()
        if torch.isfinite(value):
            combined[name] = value.item()
    return combined


def h_turn(rows: Rows, delta: Tensor) -> Tensor:
    """Return how evenly a row's change is spread over its turns, from 0 (one turn) to 1 (even).

    Args:
        rows: The rows.
        delta: [R, T] logp - old, in nats.

    Returns:
        Mean over the rows that changed of the entropy of p over log(turns), where p_j is turn j's
        share of the row's k3 KL; 0 for a row of one turn, NaN if no row changed (as in the first
        mini-batch of an update).
    """
    kl = turn_sums(rows, delta.exp() - delta - 1)
    total = kl.sum(1, keepdim=True)
    levels = torch.special.entr(kl / total).sum(1) / _turns(rows).clamp(min=2).log()
    changed = total[:, 0] > 0
    return torch.where(changed, levels, 0.0).sum() / changed.sum()


def h_turn_released(rows: Rows, delta: Tensor) -> Tensor:
    """Return the figure that the AT2PO paper calls H_turn, for comparison only.

    Its "KL" of a turn is the signed sum of log-ratios, and softmax is taken of its share of the
    row's sum: pure noise gives the published level.

    Args:
        rows: The rows.
        delta: [R, T] logp - old, in nats.

    Returns:
        Mean over all rows; a row that did not change, or of one turn, counts 0.

    Source: AT2PO (arXiv 2601.04767), Eq. 13, with the signed sums of its released code.
    """
    sums = turn_sums(rows, delta)
    present = turn_sums(rows, torch.ones_like(delta)) > 0
    total = sums.sum(1, keepdim=True)
    shares = torch.where(present, sums / torch.where(total == 0, 1.0, total), -torch.inf)
    p = shares.softmax(1)
    turns = _turns(rows)
    levels = -(p * (p + 1e-10).log()).sum(1) / turns.clamp(min=2).log()
    return torch.where((total[:, 0] != 0) & (turns > 1), levels, 0.0).mean()


def turn_sums(rows: Rows, x: Tensor) -> Tensor:
    """Add up each turn's numbers.

    Args:
        rows: The rows.
        x: [R, T] numbers.

    Returns:
        [R, turns]; 0 for turns that a row does not have.
    """
    zeros = x.new_zeros(len(x), rows.turns)
    return zeros.scatter_add(1, rows.turn, torch.where(rows.mask, x, 0.0))


def _mean(rows: Rows, x: Tensor) -> Tensor:
    """Mean over the sampled tokens; 0 where there are none."""
    return torch.where(rows.mask, x, 0.0).sum() / rows.mask.sum().clamp(min=1)


def _turns(rows: Rows) -> Tensor:
    """[R] number of turns with sampled tokens."""
    tokens = turn_sums(rows, torch.ones_like(rows.advantages))
    return (tokens > 0).sum(1).to(rows.advantages.dtype)
