"""The losses a second time, token by token in plain Python, and rows to compare them on."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from at2po_agents.algorithms import AEPO, ARPO, ATPO, DAPO, GRPO, GSPO, ClippedLoss, TreeGRPO
from at2po_agents.learner.packing import pack
from at2po_agents.objective.rows import Rows
from at2po_envs import Outcome
from tests.at2po_agents.samples import random_tree

CLASSES = [ATPO, GRPO, DAPO, GSPO, ARPO, AEPO, TreeGRPO]


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


def rows_of(seed: int, **changes: object) -> Rows:
    """Pack two random trees, some of whose rows were cut off."""
    trees = [random_tree(seed, size=12), random_tree(seed + 1)]
    for number, leaf in enumerate(leaf for tree in trees for leaf in tree.leaves()):
        leaf.outcome = Outcome(False, 0.0, True, truncated=number % 3 == 0)
    return replace(pack(trees, dtype=torch.float64).rows, **changes)  # type: ignore[arg-type]


def noise(rows: Rows, seed: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows.mask.shape, generator=generator, dtype=torch.float64) * scale


def solve(algorithm: ClippedLoss, rows: Rows, logp: Tensor, old: Tensor) -> tuple[float, Tensor]:
    """Return the loss and its gradient with respect to the log-probabilities."""
    logp = logp.detach().requires_grad_()
    loss = algorithm.loss(rows, logp, old).loss
    return loss.item(), torch.autograd.grad(loss, logp)[0]


def group(level: str, rows: Rows, r: int, t: int) -> list[int]:
    """The places whose log-ratios make up that of a token."""
    places = rows.mask[r].nonzero()[:, 0].tolist()
    return [
        p
        for p in places
        if {"token": p == t, "turn": rows.turn[r, p] == rows.turn[r, t], "sequence": True}[level]
    ]


def by_hand(algorithm: ClippedLoss, rows: Rows, logp: Tensor, old: Tensor) -> tuple[float, Tensor]:
    """Value and gradient from the formulas of the released codes."""
    loss, gradient = 0.0, torch.zeros_like(logp)
    low, high, dual = algorithm.clip_low, algorithm.clip_high, algorithm.dual_clip
    if algorithm.mask_truncated:
        rows = replace(rows, mask=rows.mask & ~rows.truncated[:, None])
    for r, t in rows.mask.nonzero().tolist():
        places = group(algorithm.ratio, rows, r, t)
        rho = sum((logp - old)[r, p].item() for p in places) / len(places)
        over = algorithm.ratio != "token" and rho > 10  # the released clamp, without gradient
        s, a = math.exp(min(rho, 10.0 if over else 705.0)), rows.advantages[r, t].item()
        if isinstance(algorithm, AEPO) and algorithm.variant == "designed":
            mean, std = rows.entropy_mean_std
            a *= 1 + algorithm.entropy_weight * (rows.entropy[r, t].item() - mean) / std
        value, slope = -a * s, 0.0 if over else -a * s
        bounded = -a * min(max(s, 1 - low), 1 + high)
        if bounded > value:
            kept = algorithm.soft_upper_clip and s > 1 + high
            value, slope = bounded, bounded if kept else 0.0
        if dual and a < 0 and value > -a * dual:
            value, slope = -a * dual, 0.0
        if algorithm.importance_cap and rows.behavior_logprobs is not None:
            stale = sum((old - rows.behavior_logprobs)[r, p].item() for p in places) / len(places)
            weight = min(math.exp(stale), algorithm.importance_cap)
            value, slope = value * weight, slope * weight
        if algorithm.kl_coef and rows.ref_logprobs is not None:
            d = (rows.ref_logprobs - logp)[r, t].item()
            k = math.exp(min(d, 705.0)) - d - 1
            k, k_slope = (10.0, 0.0) if k > 10 else (k, 1 - math.exp(d))
            value, slope = value + algorithm.kl_coef * k, slope + algorithm.kl_coef * k_slope
        weight = {
            "token-mean": 1 / rows.total_tokens,
            "seq-mean-token-mean": 1 / (int(rows.mask[r].sum()) * rows.total_rows),
        }[algorithm.aggregation]
        if algorithm.shared == "once":
            weight /= rows.row_count[r, t].item()
        loss += weight * value
        gradient[r, t] = weight * slope
    return loss, gradient
