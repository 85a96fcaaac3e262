"""Sampling that depends on (seed, step) alone, never on which other rows share the batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from at2po_agents.errors import NonFiniteLogitsError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Ids whose probabilities are added up before the cumulative sum is taken.
_BLOCK = 64


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers one to one.

    Source: finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, variant 13 of Stafford).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the `counters`-th uniform number of each seed's stream.

    Args:
        seeds: [rows] stream seeds. They are mixed first, so that close seeds do not give shifted
            copies of one stream.
        counters: [rows] position in the stream, from 0.

    Returns:
        [rows] multiples of 2**-53 in [0, 1).
    """
    bits = _mix(_mix(seeds + _GOLDEN) + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _first_above(cdf: Tensor, target: Tensor) -> Tensor:
    """Return [rows, 1] the first place whose cumulative sum exceeds the target.

    The sum grows there, so the place is possible. A target that rounding put at or above the end
    of the row is moved to just below it.
    """
    end = cdf[:, -1:]
    below = torch.minimum(target, end.nextafter(torch.zeros_like(end)))
    return torch.searchsorted(cdf, below, right=True)


def _invert(weights: Tensor, u: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Find where the cumulative sum of each row passes the fraction `u` of its total.

    First the block, then the id inside it: a running sum over the whole vocabulary would be most
    of the cost of sampling.

    Args:
        weights: [rows, multiple of the block size] unnormalised probabilities.
        u: [rows] numbers in [0, 1).

    Returns:
        Ids [rows, 1] and totals [rows, 1] in float64.
    """
    blocks = weights.view(len(weights), -1, _BLOCK)
    cdf = blocks.sum(-1).double().cumsum(-1)
    total = cdf[:, -1:]
    if not bool(total.isfinite().all()):
        bad = (~total.isfinite()).nonzero()[:, 0].tolist()
        raise NonFiniteLogitsError(
            f"expected finite logits, found NaN or infinity in rows {bad} of the batch; "
            "check the weights last loaded (a diverged update is the usual cause)"
        )
    target = torch.from_numpy(u).to(total)[:, None] * total
    block = _first_above(cdf, target)
    before = cdf.gather(-1, (block - 1).clamp_(min=0)).where(block > 0, 0.0)
    rows = torch.arange(len(weights), device=weights.device)
    inside = blocks[rows, block[:, 0]].double().cumsum(-1)
    return block * _BLOCK + _first_above(inside, target - before), total


def sample(
    logits: Tensor, temperatures: NDArray[np.float64], u: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Draw one id per row by inverting the cumulative distribution at `u`.

    Args:
        logits: [rows, vocabulary], any float dtype; computed in float32, or float64 if given so.
        temperatures: [rows], 0 (greedy) or positive.
        u: [rows] numbers in [0, 1).

    Returns:
        Sampled ids [rows] int64, and their logprobs [rows] under softmax(logits / temperature),
        with temperature 1 where greedy. An id of probability zero is never drawn.

    Raises:
        NonFiniteLogitsError: a row holds NaN or +inf, or nothing but -inf.
    """
    rows, vocabulary = logits.shape
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scale = torch.from_numpy(np.where(temperatures > 0, temperatures, 1.0)).to(logits)[:, None]
    peak = logits.amax(-1, keepdim=True)
    weights = logits.new_empty((rows, -(-vocabulary // _BLOCK) * _BLOCK))
    weights[:, vocabulary:] = 0.0
    torch.sub(logits, peak, out=weights[:, :vocabulary]).div_(scale).exp_()
    ids, total = _invert(weights, u)
    greedy = temperatures == 0
    if greedy.any():
        choose = torch.from_numpy(greedy).to(logits.device)[:, None]
        ids = torch.where(choose, logits.argmax(-1, keepdim=True), ids)
    logprobs = ((logits.gather(-1, ids) - peak) / scale).double() - total.log()
    return ids[:, 0], logprobs[:, 0]


def entropies(logits: Tensor, temperatures: NDArray[np.float64]) -> Tensor:
    """Return the entropy of each row's distribution.

    Args:
        logits: [rows, vocabulary], any float dtype; -inf where an id is impossible.
        temperatures: [rows], positive, or 0 for the entropy at temperature 1.

    Returns:
        [rows] in nats, at least float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scale = torch.from_numpy(np.where(temperatures > 0, temperatures, 1.0)).to(logits)[:, None]
    entropy: Tensor = torch.special.entr((logits / scale).softmax(-1)).sum(-1)
    return entropy
