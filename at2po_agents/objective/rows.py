"""Rows: the sampled tokens of root-to-leaf paths as tensors, which the losses are formulas on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Root-to-leaf rows of sampled tokens, R rows of up to T tokens, padded on the right.

    Attributes:
        index: [R, T] int64 into the S unique sampled tokens of the pack (0 where padded).
        mask: [R, T] bool, False where padded.
        turn: [R, T] int64, number of the turn within its row, from 0 (0 where padded).
        advantages: [R, T] in the model's dtype (0 where padded).
        entropy: [R, T] entropy at sampling time in nats: of the whole distribution where the engine
            gave it, else -log p of the sampled token; NaN where neither is known (0 where padded).
        row_count: [R, T] int64, how many rows of the whole tree hold the token, in this pack or in
            another (0 where padded).
        rewards: [R] raw reward of the leaf.
        truncated: [R] bool, whether the episode was cut off.
        tree: [R] int64, which tree of the pack the row belongs to.
        turns: Largest number of turns in a row, at least 1.
        total_rows: Rows of the whole mini-batch, the G of the paper; at least R.
        total_tokens: Sampled row tokens of the whole mini-batch.
        entropy_mean_std: Mean and standard deviation (ddof=1) of `entropy` over the mini-batch.
        ref_logprobs: [R, T] log-probabilities under the policy that the run started from, in nats;
            None unless the algorithm has a KL coefficient.
        behavior_logprobs: [R, T] log-probabilities at sampling time, in nats (0 where padded):
            those of the policy that drew the tokens, which may be older than the one that the
            update starts from; None where a turn's were not kept.
    """

    index: Tensor
    mask: Tensor
    turn: Tensor
    advantages: Tensor
    entropy: Tensor
    row_count: Tensor
    rewards: Tensor
    truncated: Tensor
    tree: Tensor
    turns: int
    total_rows: int
    total_tokens: int
    entropy_mean_std: tuple[float, float]
    ref_logprobs: Tensor | None = None
    behavior_logprobs: Tensor | None = None

    def gather(self, unique: Tensor) -> Tensor:
        """Lay per-token numbers out as rows.

        Args:
            unique: [S] one number per unique sampled token.

        Returns:
            [R, T]; padded places hold the first number, to be masked.
        """
        # index_select, unlike advanced indexing, has a deterministic backward on CPU threads.
        return unique.index_select(0, self.index.flatten()).view(self.index.shape)
