"""Policy losses as plain formulas on rows of tokens, [R, T], built from small shared pieces.

Sources that several functions name:
    verl: `compute_policy_loss`, `kl_penalty` and `agg_loss` in verl/trainer/ppo/core_algos.py of
    github.com/verl-project/verl, of which all released codes of the baselines hold a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from at2po_agents.errors import ConfigError
from at2po_agents.objective.diagnostics import measure
from at2po_agents.objective.ratios import finite
from at2po_agents.objective.rows import Rows

#: Upper clamp on log(ref / policy), where k3 is far over its own limit and exp has not overflowed.
LOG_REFERENCE_MAX = 20.0


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns.

    Attributes:
        loss: Scalar to be minimised, differentiable: the rows' share of the mini-batch loss.
        per_row: [R] detached share of each row, to find the rows that break an update.
        metrics: Detached scalars; of several packs the mean is taken, weighted by sampled tokens,
            but the extreme of names that end in `_min` or `_max`. NaN stands for not measured.
    """

    loss: Tensor
    per_row: Tensor
    metrics: dict[str, Tensor]


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Return the pessimistic clipped policy-gradient term of each token.

    Args:
        ratio: [R, T] importance ratios.
        advantages: [R, T] advantages.
        low: How far the ratio may fall below 1 before it is clipped, in [0, 1].
        high: How far it may rise above 1, at least 0.

    Returns:
        [R, T] terms to be minimised.

    Source: PPO (arXiv 1707.06347), Eq. 7; a bound of its own above is DAPO's (arXiv 2503.14476).
    """
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def soft_clipped(
    ratio: Tensor, advantages: Tensor, low: float, high: float, logp: Tensor
) -> Tensor:
    """Clip like `clipped`, but keep a bounded gradient where the ratio is too high.

    The upper bound is (1 + high) r / sg(r): PPO's value, with the gradient (1 + high) dlog(pi),
    however large the ratio is.

    Args:
        ratio: [R, T] importance ratios.
        advantages: [R, T] advantages.
        low: As for `clipped`.
        high: As for `clipped`.
        logp: [R, T] log-probabilities under the policy being trained, in nats.

    Returns:
        [R, T] terms.

    Source: AEPO (arXiv 2510.14545), entropy-balanced clipping; AEPO/verl_aepo_entropy/verl/trainer/
    ppo/core_algos.py of github.com/zzfoutofspace/ATPO at 98e60f6.
    """
    kept = -advantages * (1 + high) * (logp - logp.detach())
    cut = (advantages > 0) & (ratio > 1 + high)
    return clipped(ratio, advantages, low, high) + torch.where(cut, kept, 0.0)


def dual_clipped(terms: Tensor, advantages: Tensor, limit: float) -> Tensor:
    """Bound the terms of negative advantages, whose ratio is clipped at `limit`.

    Args:
        terms: [R, T] terms of `clipped` or `soft_clipped`.
        advantages: [R, T] advantages.
        limit: Largest ratio that counts, above 1.

    Returns:
        [R, T].

    Source: dual-clip PPO (arXiv 1912.09729); limit 3 is `clip_ratio_c` of verl.
    """
    return torch.where(advantages < 0, torch.minimum(terms, -advantages * limit), terms)


def kl_terms(rows: Rows, logp: Tensor) -> Tensor:
    """Estimate KL(policy || reference) at each token.

    Args:
        rows: The rows, with the reference's log-probabilities.
        logp: [R, T] log-probabilities under the policy being trained, in nats.

    Returns:
        [R, T] k3 in nats: exp(d) - d - 1 with d = ref - logp, clamped to +-10 and beyond without
        gradient.

    Raises:
        ConfigError: If the rows have no reference.

    Source: k3 is GRPO's (arXiv 2402.03300), Eq. 4; its clamp is verl's.
    """
    if rows.ref_logprobs is None:
        raise ConfigError(
            "a KL term needs rows.ref_logprobs, found none; give the algorithm a kl_coef above 0"
        )
    delta = finite(rows.ref_logprobs - logp).clamp(max=LOG_REFERENCE_MAX)
    return (delta.exp() - delta - 1).clamp(-10, 10)


def entropy_weighted(rows: Rows, weight: float) -> Rows:
    """Scale each token's advantage by how unsure the policy was when it drew the token.

    Args:
        rows: The rows.
        weight: Weight of the standardised entropy z; advantages become A (1 + weight z).

    Returns:
        The rows with new advantages.

    Source: AEPO (arXiv 2510.14545), entropy-aware advantage. z is taken over the mini-batch (in the
    released code over whatever shared a micro-batch) and of the entropy at sampling time.
    """
    mean, std = rows.entropy_mean_std
    factor = 1 + weight * (rows.entropy - mean) / std
    return replace(rows, advantages=torch.where(rows.mask, rows.advantages * factor, 0.0))


def token_mean(rows: Rows, terms: Tensor) -> Tensor:
    """Average over all sampled row tokens of the whole mini-batch.

    Args:
        rows: The rows; `total_tokens` is the denominator, whatever the packing.
        terms: [R, T] per-token terms.

    Returns:
        [R] each row's share of the loss.

    Source: DAPO (arXiv 2503.14476), token-level policy gradient loss; "token-mean" of verl.
    """
    return torch.where(rows.mask, terms, 0.0).sum(1) / max(1, rows.total_tokens)


def seq_mean_token_mean(rows: Rows, terms: Tensor) -> Tensor:
    """Average over the tokens of each row, then over the rows of the whole mini-batch.

    Args:
        rows: The rows; `total_rows` is the denominator, so that the shares of several packs add
            up to the loss of their mini-batch.
        terms: [R, T] per-token terms.

    Returns:
        [R] each row's share of the loss; 0 for a row without sampled tokens.

    Source: GRPO (arXiv 2402.03300), Eq. 3; "seq-mean-token-mean" of verl.
    """
    counts = rows.mask.sum(1).clamp(min=1)
    return torch.where(rows.mask, terms, 0.0).sum(1) / counts / rows.total_rows


AGGREGATIONS: dict[str, Callable[[Rows, Tensor], Tensor]] = {
    "token-mean": token_mean,
    "seq-mean-token-mean": seq_mean_token_mean,
}


def output(
    rows: Rows,
    per_row: Tensor,
    *,
    ratio: Tensor,
    logp: Tensor,
    old: Tensor,
    low: float,
    high: float,
) -> LossOutput:
    """Sum the rows' parts of the loss and measure how far the policy has moved.

    Args:
        rows: The rows.
        per_row: [R] each row's share of the loss.
        ratio: [R, T] importance ratios.
        logp: [R, T] log-probabilities under the policy being trained.
        old: [R, T] log-probabilities under the policy that sampled.
        low: Lower clip distance of the loss.
        high: Upper clip distance of the loss.

    Returns:
        The loss, with the metrics of `diagnostics.measure`.
    """
    return LossOutput(per_row.sum(), per_row.detach(), measure(rows, ratio, logp, old, low, high))
