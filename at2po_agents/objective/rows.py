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
        copies: [R, T] int64, number of rows of the whole tree that hold the token, be they in this
            pack or in another (0 where padded).
        rewards: [R] raw reward of the leaf.
        truncated: [R] bool, whether the episode was cut off.
        tree: [R] int64, which tree of the pack the row belongs to.
        turns: Largest number of turns in a row, at least 1.
        total_rows: Rows of the whole mini-batch, the G of the paper; at least R.
        total_tokens: Sampled row tokens of the whole mini-batch.
        moments: Mean and unbiased deviation of `entropy` over the whole mini-batch.
        reference: [R, T] log-probabilities under the policy that the run started from, in nats;
            None unless the algorithm has a KL coefficient.
        behaviour: [R, T] log-probabilities at sampling time, in nats (0 where padded): those of the
            policy that drew the tokens, which may be older than the one that the update starts
            from; None where a turn's were not kept.
    """

    index: Tensor
    mask: Tensor
    turn: Tensor
    advantages: Tensor
    entropy: Tensor
    copies: Tensor
    rewards: Tensor
    truncated: Tensor
    tree: Tensor
    turns: int
    total_rows: int
    total_tokens: int
    moments: tuple[float, float]
    reference: Tensor | None = None
    behaviour: Tensor | None = None

    def gather(self, unique: Tensor) -> Tensor:
        """Lay per-token numbers out as rows.

        Args:
            unique: [S] one number per unique sampled token.

        Returns:
            [R, T]; padded places hold the first number, to be masked.
        """
        # index_select, unlike advanced indexing, has a deterministic backward on CPU threads.
        return unique.index_select(0, self.index.flatten()).view(self.index.shape)
