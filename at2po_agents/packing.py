"""Packing: the tokens of rollout trees, each once, and the rows that the losses read from them.

A tree's leaves are laid out one after the other. The first row that reaches a turn stores it, so
what a row adds is always the tail of its path: its queries are that tail, its keys are the whole
path. Attention therefore costs unique tokens x path length, every other layer costs unique tokens,
and both are exact: no token sees a sibling branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from at2po_agents.errors import TreeError
from at2po_agents.expansion.entropy import entropy_moments, sampling_entropies
from at2po_agents.tree import Node, RolloutTree

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Tails of similar length, padded to one rectangle (pads point at token 0 and are not read).

    Attributes:
        queries: [R, Q] int64, positions of the tails' tokens in the pack.
        keys: [R, P] int64, positions of the tokens of each whole path.
        depths: [R, Q] int64, place of each query on its path; it sees the keys up to there.
    """

    queries: Tensor
    keys: Tensor
    depths: Tensor


@dataclass(frozen=True)
class Layout:
    """Who attends to whom.

    Attributes:
        groups: The tails, grouped by length.
        restore: [U] int64, where each token of the pack stands in the groups' joined output.
    """

    groups: tuple[Group, ...]
    restore: Tensor


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
        copies: [R, T] int64, number of rows of the pack that hold the token (0 where padded).
        rewards: [R] raw reward of the leaf.
        truncated: [R] bool, whether the episode was cut off.
        tree: [R] int64, which tree of the pack the row belongs to.
        turns: Largest number of turns in a row, at least 1.
        total_rows: Rows of the whole mini-batch, the G of the paper; at least R.
        total_tokens: Sampled row tokens of the whole mini-batch.
        moments: Mean and unbiased deviation of `entropy` over the whole mini-batch.
        reference: [R, T] log-probabilities under the policy that the run started from, in nats;
            None unless the algorithm has a KL coefficient.
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

    def gather(self, unique: Tensor) -> Tensor:
        """Lay per-token numbers out as rows.

        Args:
            unique: [S] one number per unique sampled token.

        Returns:
            [R, T]; padded places hold the first number, to be masked.
        """
        # index_select, unlike advanced indexing, has a deterministic backward on CPU threads.
        return unique.index_select(0, self.index.flatten()).view(self.index.shape)


@dataclass(frozen=True)
class Pack:
    """Trees as one sequence of U unique tokens, S of them sampled.

    Attributes:
        ids: [1, U] int64 token ids.
        positions: [1, U] int64, place of each token on its path (for rotary embeddings).
        predictors: [S] int64, the token whose hidden state predicts each sampled token.
        targets: [S] int64, ids of the sampled tokens.
        layout: The attention pattern.
        rows: The rows of all leaves, tree by tree, in the order of `RolloutTree.leaves()`.
    """

    ids: Tensor
    positions: Tensor
    predictors: Tensor
    targets: Tensor
    layout: Layout
    rows: Rows


def pack(
    trees: Sequence[RolloutTree],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Pack:
    """Pack trees into one sequence in which every token stands once.

    Args:
        trees: Complete trees whose turns carry advantages, at least one.
        device: Where the tensors are put.
        dtype: Floating type of advantages and rewards.

    Returns:
        The pack; its rows count only themselves in `total_rows`, `total_tokens` and `moments`.

    Raises:
        TreeError: If there is no tree or no sampled token, a leaf has no reward or a turn no
            advantage.
    """
    if not trees:
        raise TreeError("packing needs at least one tree, found none; pass the trees to train on")
    build = _Builder()
    for number, tree in enumerate(trees):
        build.add(number, tree)
    if not build.targets:
        raise TreeError("packing needs at least one sampled token, found none; drop such trees")
    return build.finish(torch.device(device), dtype, entropy_moments(trees))


@dataclass
class _Builder:
    """Plain lists that grow leaf by leaf."""

    ids: list[int] = field(default_factory=list)
    depths: list[Index] = field(default_factory=list)
    predictors: list[Index] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    tails: list[tuple[int, int]] = field(default_factory=list)  # start in the pack, length
    paths: list[Index] = field(default_factory=list)
    slots: list[Index] = field(default_factory=list)
    turns: list[Index] = field(default_factory=list)
    advantages: list[NDArray[np.float64]] = field(default_factory=list)
    entropies: list[NDArray[np.float64]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    tree: list[int] = field(default_factory=list)

    def add(self, number: int, tree: RolloutTree) -> None:
        """Append all leaves of a tree."""
        paths: dict[Node, Index] = {}
        slots: dict[Node, Index] = {}
        for leaf in tree.leaves():
            start = len(self.ids)
            path = leaf.path()
            for node in path:
                if node not in paths:
                    self._store(node, paths, slots)
            self.tails.append((start, len(self.ids) - start))
            self.paths.append(paths[leaf])
            self._row(leaf, path[1:], slots)
            self.tree.append(number)

    def _store(self, node: Node, paths: dict[Node, Index], slots: dict[Node, Index]) -> None:
        before = paths[node.parent] if node.parent else np.zeros(0, np.int64)
        length = len(node.sampled) + len(node.inserted)
        path = np.concatenate([before, np.arange(length) + len(self.ids)])
        paths[node] = path
        slots[node] = np.arange(len(node.sampled)) + len(self.targets)
        self.ids += [*node.sampled, *node.inserted]
        self.depths.append(np.arange(len(before), len(path)))
        if node.sampled:
            self.predictors.append(path[len(before) - 1 : len(before) - 1 + len(node.sampled)])
            self.targets += node.sampled

    def _row(self, leaf: Node, turns: list[Node], slots: dict[Node, Index]) -> None:
        if leaf.reward is None:
            raise TreeError(
                f"every leaf needs a reward, found none at {leaf.key}; finish the chain"
            )
        lengths = [len(node.sampled) for node in turns]
        credit = [
            node.advantage if leaf.row_advantage is None else leaf.row_advantage for node in turns
        ]
        if None in credit:
            raise TreeError(
                f"every turn needs an advantage, found none on the way to {leaf.key}; "
                "call assign_credit first"
            )
        self.slots.append(
            np.concatenate([slots[node] for node in turns] or [np.zeros(0, np.int64)])
        )
        self.turns.append(np.repeat(np.arange(len(turns)), lengths))
        self.advantages.append(np.repeat(np.array(credit, np.float64), lengths))
        self.entropies.append(
            np.concatenate([sampling_entropies(node) for node in turns] or [np.zeros(0)])
        )
        self.rewards.append(leaf.reward)
        self.truncated.append(bool(leaf.info.get("truncated", False)))

    def finish(
        self, device: torch.device, dtype: torch.dtype, moments: tuple[float, float]
    ) -> Pack:
        """Turn the lists into tensors."""
        copies = np.bincount(np.concatenate(self.slots), minlength=len(self.targets))
        lengths = np.array([len(slots) for slots in self.slots])
        mask = np.arange(lengths.max()) < lengths[:, None]
        rows = Rows(
            index=_padded(self.slots, mask).to(device),
            mask=torch.from_numpy(mask).to(device),
            turn=_padded(self.turns, mask).to(device),
            advantages=_padded(self.advantages, mask).to(device, dtype),
            entropy=_padded(self.entropies, mask).to(device, dtype),
            copies=_padded([copies[slots] for slots in self.slots], mask).to(device),
            rewards=torch.tensor(self.rewards, device=device, dtype=dtype),
            truncated=torch.tensor(self.truncated, device=device),
            tree=torch.tensor(self.tree, device=device),
            turns=max(int(turn[-1]) + 1 for turn in self.turns if len(turn)),
            total_rows=len(self.slots),
            total_tokens=int(lengths.sum()),
            moments=moments,
        )
        return Pack(
            ids=torch.tensor(self.ids, device=device)[None],
            positions=torch.from_numpy(np.concatenate(self.depths)).to(device)[None],
            predictors=torch.from_numpy(np.concatenate(self.predictors)).to(device),
            targets=torch.tensor(self.targets, device=device),
            layout=self._layout(device),
            rows=rows,
        )

    def _layout(self, device: torch.device) -> Layout:
        depths = np.concatenate(self.depths)
        restore = np.zeros(len(self.ids), np.int64)
        groups, offset = [], 0
        # Doubling buckets waste less than half of any rectangle and keep the groups few.
        buckets: dict[int, list[int]] = {}
        for row, (_, length) in enumerate(self.tails):
            if length:
                buckets.setdefault(length.bit_length(), []).append(row)
        for _, members in sorted(buckets.items()):
            tails = [np.arange(self.tails[row][1]) + self.tails[row][0] for row in members]
            paths = [self.paths[row] for row in members]
            queries, keys = _rectangle(tails), _rectangle(paths)
            for place, tail in enumerate(tails):
                restore[tail] = offset + place * queries.shape[1] + np.arange(len(tail))
            offset += queries.numel()
            depth = _rectangle([depths[tail] for tail in tails])
            groups.append(Group(queries.to(device), keys.to(device), depth.to(device)))
        return Layout(tuple(groups), torch.from_numpy(restore).to(device))


def _padded(ragged: Sequence[NDArray[np.generic]], mask: NDArray[np.bool_]) -> Tensor:
    """Fill the True places of a mask with ragged rows, the others with 0."""
    full = np.zeros(mask.shape, ragged[0].dtype)
    full[mask] = np.concatenate(ragged)
    return torch.from_numpy(full)


def _rectangle(ragged: Sequence[Index]) -> Tensor:
    """Pad ragged rows on the right with 0."""
    lengths = np.array([len(row) for row in ragged])
    return _padded(ragged, np.arange(lengths.max()) < lengths[:, None])
