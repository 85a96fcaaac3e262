"""Policy losses as plain formulas on rows of tokens, [R, T], built from small shared pieces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from at2po_agents.errors import ConfigError
from at2po_agents.objective.diagnostics import measure, turn_sums
from at2po_agents.objective.loss_options import KL, Ratio
from at2po_agents.objective.rows import Rows

#: Upper clamp on the mean log-ratio of a turn or row. Source: released AT2PO code, `gspo_turn`.
LOG_RATIO_MAX = 10.0
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


def token_ratio(rows: Rows, logp: Tensor, old: Tensor) -> Tensor:
    """Return each token's own importance ratio.

    Args:
        rows: The rows.
        logp: [R, T] log-probabilities under the policy being trained, in nats.
        old: [R, T] log-probabilities under the policy that sampled, in nats.

    Returns:
        [R, T] exp(logp - old). Where that would overflow it is the largest power of e that does
        not, which is also its gradient.

    Source: PPO and GRPO; unlike the ratios of turns and rows not clamped, as in released AEPO code.
    """
    delta = _finite(logp.detach() - old.detach())
    return _ratio(logp, delta.clamp(max=0.99 * math.log(torch.finfo(delta.dtype).max)))


def turn_ratio(rows: Rows, logp: Tensor, old: Tensor) -> Tensor:
    """Return each token's importance ratio at the level of its turn.

    The value is the geometric mean of the turn's token ratios; the gradient is that of the token's
    own log-probability times this value.

    Args:
        rows: The rows.
        logp: [R, T] log-probabilities under the policy being trained, in nats.
        old: [R, T] log-probabilities under the policy that sampled, in nats.

    Returns:
        [R, T], at most e^10; above that without gradient.

    Source: AT2PO paper, turn-level ratio; clamp and stop-gradient form as in the released code
    (`policy_loss=gspo_turn`).
    """
    mean = turn_mean(rows, _finite(logp.detach() - old.detach()))
    return _ratio(logp, mean, LOG_RATIO_MAX)


def sequence_ratio(rows: Rows, logp: Tensor, old: Tensor) -> Tensor:
    """Return each token's importance ratio at the level of its row, as `turn_ratio` does of turns.

    Args:
        rows: The rows.
        logp: [R, T], in nats.
        old: [R, T], in nats.

    Returns:
        [R, T], at most e^10; above that without gradient.

    Source: GSPO paper, token-level form.
    """
    return turn_ratio(replace(rows, turn=torch.zeros_like(rows.turn), turns=1), logp, old)


RATIOS: dict[str, Callable[[Rows, Tensor, Tensor], Tensor]] = {
    "token": token_ratio,
    "turn": turn_ratio,
    "sequence": sequence_ratio,
}


def turn_mean(rows: Rows, x: Tensor) -> Tensor:
    """Replace each token's number by the mean over its turn.

    Args:
        rows: The rows.
        x: [R, T] numbers.

    Returns:
        [R, T].
    """
    counts = turn_sums(rows, torch.ones_like(x)).clamp(min=1)
    return (turn_sums(rows, x) / counts).gather(1, rows.turn)


def _ratio(logp: Tensor, log_ratio: Tensor, limit: float = math.inf) -> Tensor:
    """Return exp(log_ratio), at most e^limit, whose gradient is that of logp times this value."""
    return (logp - logp.detach() + log_ratio).clamp(max=limit).exp()


def _finite(x: Tensor) -> Tensor:
    """Replace infinities by NaN: clipping would hide them, and no update can follow from them."""
    return torch.where(x.isfinite(), x, torch.nan)


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

    Source: AEPO paper and released code, entropy-balanced clipping.
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

    Source: dual-clip PPO; limit 3 in the code that the baselines ran on.
    """
    return torch.where(advantages < 0, torch.minimum(terms, -advantages * limit), terms)


def importance(rows: Rows, old: Tensor, level: Ratio) -> Tensor:
    """Return how much likelier tokens are under the policy before the update than when drawn.

    As the weight of a token's term it corrects for trees from older weights (and for an engine that
    rounds otherwise than the learner), while clipping stays around the policy before the update.

    Args:
        rows: The rows, with the log-probabilities at sampling time.
        old: [R, T] log-probabilities under the policy before the first mini-batch, in nats.
        level: Whose ratio: each token's, or the geometric mean over its turn or row.

    Returns:
        [R, T] pi_old / mu, not yet limited and without gradient; exactly 1 where both agree.

    Raises:
        ConfigError: If the rows have no such log-probabilities.

    Source: decoupled PPO objective (Hilton et al., arXiv 2110.00641; for language models AReaL,
    arXiv 2505.24298, whose code drops tokens over its limit instead). Truncation min(ratio, limit)
    as in IMPALA's V-trace (Espeholt et al., arXiv 1802.01561); usual limits are TRL's defaults, 2
    and later 3 (`vllm_importance_sampling_cap`). Both weigh single tokens; the two other levels are
    our choice, to match the loss.
    """
    if rows.behavior_logprobs is None:
        raise ConfigError(
            "importance_cap needs rows.behavior_logprobs, those at sampling time, found none; "
            " keep `logprobs` of every sampled token, or set importance_cap to 0"
        )
    return RATIOS[level](rows, old.detach(), rows.behavior_logprobs)


def kl_terms(rows: Rows, logp: Tensor, kind: KL = "k3") -> Tensor:
    """Estimate KL(policy || reference) at each token.

    Args:
        rows: The rows, with the reference's log-probabilities.
        logp: [R, T] log-probabilities under the policy being trained, in nats.
        kind: "k1" (logp - ref: in a loss its gradient has mean 0, so it only adds noise) or "k3"
            (exp(d) - d - 1 with d = ref - logp, clamped to +-10 and beyond without gradient).

    Returns:
        [R, T] in nats.

    Raises:
        ConfigError: If the rows have no reference.

    Source: GRPO; clamp as in the code that the baselines ran on.
    """
    if rows.ref_logprobs is None:
        raise ConfigError(
            "a KL term needs rows.ref_logprobs, found none; give the algorithm a kl_coef other than 0"
        )
    delta = rows.ref_logprobs - logp
    if kind == "k1":
        return -delta
    delta = _finite(delta).clamp(max=LOG_REFERENCE_MAX)
    return (delta.exp() - delta - 1).clamp(-10, 10)


def entropy_weighted(rows: Rows, weight: float) -> Rows:
    """Scale each token's advantage by how unsure the policy was when it drew the token.

    Args:
        rows: The rows.
        weight: Weight of the standardised entropy z; advantages become A (1 + weight z).

    Returns:
        The rows with new advantages.

    Source: AEPO, entropy-aware advantage. z is taken over the mini-batch (in the released code over
    whatever shared a micro-batch) and of the entropy at sampling time.
    """
    mean, std = rows.entropy_mean_std
    factor = 1 + weight * (rows.entropy - mean) / std
    return replace(rows, advantages=torch.where(rows.mask, rows.advantages * factor, 0.0))


def without_truncated(rows: Rows) -> Rows:
    """Take the tokens of rows that were cut off out of the loss; denominators keep them."""
    return replace(rows, mask=rows.mask & ~rows.truncated[:, None])


def count_once(rows: Rows, terms: Tensor) -> Tensor:
    """Share a token's weight out among its rows, so that a turn counts once, not once per leaf."""
    return terms / rows.row_count.clamp(min=1)


def token_mean(rows: Rows, terms: Tensor) -> Tensor:
    """Average over all sampled row tokens of the whole mini-batch.

    Args:
        rows: The rows; `total_tokens` is the denominator, whatever the packing.
        terms: [R, T] per-token terms.

    Returns:
        [R] each row's share of the loss.

    Source: aggregation "token-mean" of DAPO.
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

    Source: aggregation "seq-mean-token-mean" of the released AT2PO code.
    """
    counts = rows.mask.sum(1).clamp(min=1)
    return torch.where(rows.mask, terms, 0.0).sum(1) / counts / rows.total_rows


def seq_mean_turn_mean(rows: Rows, terms: Tensor) -> Tensor:
    """Average over the tokens of each turn, then over the turns of each row, then over rows.

    Args:
        rows: The rows; `total_rows` is the denominator.
        terms: [R, T] per-token terms.

    Returns:
        [R] each row's share of the loss.
    """
    counts = turn_sums(rows, torch.ones_like(terms))
    means = turn_sums(rows, terms) / counts.clamp(min=1)
    return means.sum(1) / (counts > 0).sum(1).clamp(min=1) / rows.total_rows


AGGREGATIONS: dict[str, Callable[[Rows, Tensor], Tensor]] = {
    "token-mean": token_mean,
    "seq-mean-token-mean": seq_mean_token_mean,
    "turn-mean": seq_mean_turn_mean,
}


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
        The loss, with the metrics of `diagnostics.measure`.
    """
    return LossOutput(shares.sum(), shares.detach(), measure(rows, ratio, logp, old, low, high))
