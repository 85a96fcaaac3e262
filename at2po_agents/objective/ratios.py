"""Importance ratios pi / pi_old of tokens, turns and sequences, and the weights of stale trees.

Sources that several functions name:
    AT2PO's released code: `compute_policy_loss_gspo_turn` in
    ATPO/verl_atpo/verl/trainer/ppo/core_algos.py of github.com/zzfoutofspace/ATPO at 98e60f6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from at2po_agents.errors import ConfigError
from at2po_agents.objective.diagnostics import turn_sums
from at2po_agents.objective.loss_options import Ratio
from at2po_agents.objective.rows import Rows

#: Upper clamp on the mean log-ratio of a turn or row. Source: AT2PO's released code.
LOG_RATIO_MAX = 10.0


def token_ratio(rows: Rows, logp: Tensor, old: Tensor) -> Tensor:
    """Return each token's own importance ratio.

    Args:
        rows: The rows.
        logp: [R, T] log-probabilities under the policy being trained, in nats.
        old: [R, T] log-probabilities under the policy that sampled, in nats.

    Returns:
        [R, T] exp(logp - old). Where that would overflow it is the largest power of e that does
        not, which is also its gradient.

    Source: PPO (arXiv 1707.06347), section 3; unlike the ratios of turns and rows not clamped.
    """
    delta = finite(logp.detach() - old.detach())
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

    Source: AT2PO (arXiv 2601.04767), turn-level importance ratio; clamp and stop-gradient form are
    those of its released code.
    """
    mean = turn_mean(rows, finite(logp.detach() - old.detach()))
    return _ratio(logp, mean, LOG_RATIO_MAX)


def sequence_ratio(rows: Rows, logp: Tensor, old: Tensor) -> Tensor:
    """Return each token's importance ratio at the level of its row, as `turn_ratio` does of turns.

    Args:
        rows: The rows.
        logp: [R, T], in nats.
        old: [R, T], in nats.

    Returns:
        [R, T], at most e^10; above that without gradient.

    Source: GSPO (arXiv 2507.18071), section 4.3, GSPO-token.
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


def finite(x: Tensor) -> Tensor:
    """Replace infinities by NaN: clipping would hide them, and no update can follow from them."""
    return torch.where(x.isfinite(), x, torch.nan)


def importance_weights(rows: Rows, old: Tensor, level: Ratio) -> Tensor:
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
            "keep `logprobs` of every sampled token, or set importance_cap to 0"
        )
    return RATIOS[level](rows, old.detach(), rows.behavior_logprobs)
