"""Packing: the tokens of rollout trees, each once, and the rows that the losses read from them.

A tree's leaves are laid out one after the other, depth first; the first row that reaches a turn
stores it. Everything but attention costs unique tokens, attention costs what each of them sees, and
both are exact: no token sees a sibling branch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from at2po_agents.errors import TreeError
from at2po_agents.learner.partition import Slice, whole
from at2po_agents.learner.tree_attention import Pattern, pattern
from at2po_agents.objective.rows import Rows
from at2po_agents.rollout.expansion.entropy_measures import entropy_mean_std, sampling_entropies
from at2po_agents.tree import Node, RolloutTree, leaf_reward

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Pack:
    """Trees as one sequence of U unique tokens, S of them sampled.

    Attributes:
        ids: [1, U] int64 token ids.
        positions: [1, U] int64, place of each token on its path (for rotary embeddings).
        predictors: [S] int64, the token whose hidden state predicts each sampled token.
        targets: [S] int64, ids of the sampled tokens.
        pattern: Who attends to whom.
        rows: The rows of all leaves, tree by tree, depth first (see `Slice`).
    """

    ids: Tensor
    positions: Tensor
    predictors: Tensor
    targets: Tensor
    pattern: Pattern
    rows: Rows


def pack(
    trees: Sequence[RolloutTree | Slice],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Pack:
    """Pack trees into one sequence in which every token stands once.

    Args:
        trees: Complete trees whose turns carry advantages, or slices of such, at least one.
        device: Where the tensors are put.
        dtype: Floating type of advantages and rewards.

    Returns:
        The pack; in `total_rows`, `total_tokens` and `entropy_mean_std` its rows count only
        themselves.

    Raises:
        TreeError: If there is no tree or no sampled token, a leaf has no reward or a turn no
            advantage.
    """
    if not trees:
        raise TreeError("packing needs at least one tree, found none; pass the trees to train on")
    slices = [whole(tree) if isinstance(tree, RolloutTree) else tree for tree in trees]
    build = _Builder()
    for number, part in enumerate(slices):
        build.add(number, part)
    if not build.targets:
        raise TreeError("packing needs at least one sampled token, found none; drop such trees")
    mean_std = entropy_mean_std([leaf for part in slices for leaf in part.leaves])
    return build.finish(torch.device(device), dtype, mean_std)


@dataclass(frozen=True)
class _Place:
    """Where a turn's tokens stand.

    Attributes:
        start: First of them in the pack.
        stop: The place after the last.
        length: Tokens of the path up to and including the turn.
        last: Place of the last token of that path.
        slots: Places of the sampled tokens among all sampled tokens of the pack.
    """

    start: int
    stop: int
    length: int
    last: int
    slots: Index


@dataclass
class _Builder:
    """Plain lists that grow leaf by leaf."""

    ids: list[int] = field(default_factory=list)
    positions: list[Index] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)  # of turns: tokens, end of subtree
    predictors: list[Index] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    slots: list[Index] = field(default_factory=list)
    turns: list[Index] = field(default_factory=list)
    advantages: list[NDArray[np.float64]] = field(default_factory=list)
    entropies: list[NDArray[np.float64]] = field(default_factory=list)
    logprobs: list[NDArray[np.float64]] = field(default_factory=list)
    row_count: list[Index] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    tree: list[int] = field(default_factory=list)

    def add(self, number: int, part: Slice) -> None:
        """Append leaves of a tree."""
        rows = Counter(node for leaf in part.tree.leaves() for node in leaf.path())
        places: dict[Node, _Place] = {}
        ends: dict[Node, int] = {}
        for leaf in part.leaves:
            path = leaf.path()
            for node in path:
                if node not in places:
                    places[node] = self._store(
                        node, places.get(node.parent) if node.parent else None
                    )
            ends |= dict.fromkeys(path, len(self.ids))
            self._row(leaf, path[1:], [places[node].slots for node in path[1:]])
            self.row_count.append(
                np.repeat([rows[node] for node in path], [len(node.sampled) for node in path])
            )
            self.tree.append(number)
        self.ends += [(place.stop - place.start, ends[node]) for node, place in places.items()]

    def _store(self, node: Node, parent: _Place | None) -> _Place:
        start, sampled = len(self.ids), len(node.sampled)
        before = parent.length if parent else 0
        length = before + sampled + len(node.inserted)
        self.positions.append(np.arange(before, length))
        slots = np.arange(sampled) + len(self.targets)
        self.ids += [*node.sampled, *node.inserted]
        self.targets += node.sampled
        last = parent.last if parent else -1
        self.predictors.append(
            np.array([last, *range(start, start + sampled - 1)][:sampled], np.int64)
        )
        stop = len(self.ids)
        return _Place(start, stop, length, stop - 1 if stop > start else last, slots)

    def _row(self, leaf: Node, turns: list[Node], slots: list[Index]) -> None:
        self.rewards.append(leaf_reward(leaf))
        lengths = [len(node.sampled) for node in turns]
        credit = [
            node.advantage if leaf.row_advantage is None else leaf.row_advantage for node in turns
        ]
        if None in credit:
            raise TreeError(
                f"every turn needs an advantage, found none on the way to {leaf.key}; "
                "call assign_credit first"
            )
        self.slots.append(np.concatenate(slots or [np.zeros(0, np.int64)]))
        self.turns.append(np.repeat(np.arange(len(turns)), lengths))
        self.advantages.append(np.repeat(np.array(credit, np.float64), lengths))
        self.entropies.append(
            np.concatenate([sampling_entropies(node) for node in turns] or [np.zeros(0)])
        )
        self.logprobs.append(np.array([p for node in turns for p in node.logprobs], np.float64))
        self.truncated.append(leaf.truncated)

    def finish(
        self, device: torch.device, dtype: torch.dtype, mean_std: tuple[float, float]
    ) -> Pack:
        """Turn the lists into tensors."""
        lengths = np.array([len(slots) for slots in self.slots])
        mask = np.arange(lengths.max()) < lengths[:, None]
        known = [len(logprobs) for logprobs in self.logprobs] == lengths.tolist()
        rows = Rows(
            index=_padded(self.slots, mask).to(device),
            mask=torch.from_numpy(mask).to(device),
            turn=_padded(self.turns, mask).to(device),
            advantages=_padded(self.advantages, mask).to(device, dtype),
            entropy=_padded(self.entropies, mask).to(device, dtype),
            row_count=_padded(self.row_count, mask).to(device),
            rewards=torch.tensor(self.rewards, device=device, dtype=dtype),
            truncated=torch.tensor(self.truncated, device=device),
            tree=torch.tensor(self.tree, device=device),
            turns=max(int(turn[-1]) + 1 for turn in self.turns if len(turn)),
            total_rows=len(self.slots),
            total_tokens=int(lengths.sum()),
            entropy_mean_std=mean_std,
            behavior_logprobs=(_padded(self.logprobs, mask).to(device, dtype) if known else None),
        )
        ends = np.repeat([end for _, end in self.ends], [count for count, _ in self.ends])
        return Pack(
            ids=torch.tensor(self.ids, device=device)[None],
            positions=torch.from_numpy(np.concatenate(self.positions)).to(device)[None],
            predictors=torch.from_numpy(np.concatenate(self.predictors)).to(device),
            targets=torch.tensor(self.targets, device=device),
            pattern=pattern(ends, device),
            rows=rows,
        )


def _padded(ragged: Sequence[NDArray[np.generic]], mask: NDArray[np.bool_]) -> Tensor:
    """Fill the True places of a mask with ragged rows, the others with 0."""
    full = np.zeros(mask.shape, ragged[0].dtype)
    full[mask] = np.concatenate(ragged)
    return torch.from_numpy(full)
