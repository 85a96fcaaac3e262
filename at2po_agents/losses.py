"""Policy losses as plain formulas on rows of tokens, [R, T], built from small shared pieces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from at2po_agents.packing import Rows

#: Upper clamp on a log-ratio, against overflow. Source: released AT2PO code, `gspo_turn`.
LOG_RATIO_MAX = 10.0


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns.

    Attributes:
        loss: Scalar to be minimised, differentiable: the rows' share of the mini-batch loss.
        per_row: [R] detached share of each row, to find the rows that break an update.
        metrics: Detached scalars, means over the sampled tokens of the rows; names that end in
            `_min` or `_max` are extremes instead.
    """

    loss: Tensor
    per_row: Tensor
    metrics: dict[str, Tensor]


def turn_ratio(rows: Rows, logp: Tensor, old: Tensor) -> Tensor:
    """Return each token's importance ratio at the level of its turn.

    The value is the geometric mean of the turn's token ratios; the gradient is that of the token's
    own log-probability times this value.

    Args:
        rows: The rows.
        logp: [R, T] log-probabilities under the policy being trained, in nats.
        old: [R, T] log-probabilities under the policy that sampled, in nats.

    Returns:
        [R, T], at most e^10.

    Source: AT2PO paper, turn-level ratio; clamp and stop-gradient form as in the released code
    (`policy_loss=gspo_turn`).
    """
    mean = turn_mean(rows, logp.detach() - old.detach())
    return (logp - logp.detach() + mean).clamp(max=LOG_RATIO_MAX).exp()


def turn_mean(rows: Rows, x: Tensor) -> Tensor:
    """Replace each token's number by the mean over its turn.

    Args:
        rows: The rows.
        x: [R, T] numbers.

    Returns:
        [R, T].
    """
    zeros = x.new_zeros(len(x), rows.turns)
    sums = zeros.scatter_add(1, rows.turn, torch.where(rows.mask, x, 0.0))
    counts = zeros.scatter_add(1, rows.turn, rows.mask.to(x.dtype))
    return (sums / counts.clamp(min=1)).gather(1, rows.turn)


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Return the pessimistic clipped policy-gradient term of each token.

    Args:
        ratio: [R, T] importance ratios.
        advantages: [R, T] advantages.
        low: How far the ratio may fall below 1 before it is clipped, in [0, 1].
        high: How far it may rise above 1, at least 0.

    Returns:
        [R, T] terms to be minimised.

    Source: PPO's clipped surrogate with separate bounds below and above, as in the AT2PO paper.
    """
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def seq_mean_token_mean(rows: Rows, terms: Tensor) -> Tensor:
    """Average over the tokens of each row, then over the rows of the whole mini-batch.

    Args:
        rows: The rows; `total_rows` is the denominator, so that the shares of several packs add
            up to the loss of their mini-batch.
        terms: [R, T] per-token terms.

    Returns:
        [R] each row's share of the loss; 0 for a row without sampled tokens.

    Source: aggregation "seq-mean-token-mean" of the released AT2PO code.
    """
    counts = rows.mask.sum(1).clamp(min=1)
    return torch.where(rows.mask, terms, 0.0).sum(1) / counts / rows.total_rows


def output(
    rows: Rows,
    shares: Tensor,
    *,
    ratio: Tensor,
    logp: Tensor,
    old: Tensor,
    low: float,
    high: float,
) -> LossOutput:
    """Sum the rows' shares and measure how far the policy has moved.

    Args:
        rows: The rows.
        shares: [R] each row's share of the loss.
        ratio: [R, T] importance ratios.
        logp: [R, T] log-probabilities under the policy being trained.
        old: [R, T] log-probabilities under the policy that sampled.
        low: Lower clip distance of the loss.
        high: Upper clip distance of the loss.

    Returns:
        The loss with metrics clip_frac, ratio_mean, ratio_min, ratio_max and approx_kl (the k3
        estimator of KL(old || new) per token, in nats).

    Source: k3 estimator exp(d) - d - 1 with d = logp - old, unbiased under the old policy.
    """
    ratio, delta = ratio.detach(), logp.detach() - old.detach()
    up, down = rows.advantages > 0, rows.advantages < 0
    cut = (up & (ratio > 1 + high)) | (down & (ratio < 1 - low))
    count = rows.mask.sum().clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(rows.mask, x, 0.0).sum() / count

    metrics = {
        "clip_frac": mean(cut.to(ratio.dtype)),
        "ratio_mean": mean(ratio),
        "ratio_min": torch.where(rows.mask, ratio, torch.inf).amin(),
        "ratio_max": torch.where(rows.mask, ratio, -torch.inf).amax(),
        "approx_kl": mean(delta.exp() - delta - 1),
    }
    return LossOutput(shares.sum(), shares.detach(), metrics)
