"""Trees for other trainers: flat rows, as padded GRPO batches or as JSON lines.

A tree holds every turn once; a row is the whole of one episode, so a turn that several episodes
share stands in several rows. `Turn.rows` says in how many, for trainers that weigh it down.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from at2po_agents.errors import TreeError
from at2po_agents.tree import Node, RolloutTree, leaf_reward
from at2po_envs import Question
from retrieval.storage.files import replace_own


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a row.

    Attributes:
        start: Position of its first sampled token in `completion_ids`.
        end: Position behind its last one.
        advantage: Weight of its tokens in the loss.
        value: Estimated return from here on; None where credit assignment gave none.
        rows: Number of rows of its tree that it stands in.
    """

    start: int
    end: int
    advantage: float
    value: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class FlatRow:
    """One episode as a prompt and a completion.

    Attributes:
        group: Id of the question; rows of one group belong together.
        prompt_ids: Token ids of the prompt.
        completion_ids: Token ids after it, sampled ones and those the environment inserted.
        completion_mask: 1 for each sampled token of the completion, 0 for an inserted one.
        logprobs: Log-probability of each sampled token at sampling time, in nats; 0 for inserted.
        advantages: Advantage of each sampled token; 0 for inserted.
        turns: The turns, in order.
        reward: Return of the episode.
        truncated: Whether it was cut off.
    """

    group: str
    prompt_ids: list[int]
    completion_ids: list[int]
    completion_mask: list[int]
    logprobs: list[float]
    advantages: list[float]
    turns: list[Turn]
    reward: float
    truncated: bool


def flat_rows(trees: Iterable[RolloutTree]) -> list[FlatRow]:
    """Flatten trees, one row a leaf, in the order of `RolloutTree.leaves()`.

    Args:
        trees: Complete trees whose turns carry advantages.

    Raises:
        TreeError: If a leaf has no reward, or a turn no advantage.
    """
    return [row for tree in trees for row in _rows(tree)]


def grpo_batch(rows: Sequence[FlatRow], pad_id: int = 0) -> dict[str, Tensor]:
    """Pad rows to the tensors that flat GRPO trainers take.

    Args:
        rows: R rows, at least one.
        pad_id: Token id that fills up.

    Returns:
        `prompt_ids` and `prompt_mask` [R, P], padded on the left; `completion_ids`,
        `completion_mask` (1 on tokens), `sampled_mask` (1 on those that the policy sampled),
        `logprobs` and `advantages` [R, T], padded on the right; `rewards` [R]; `group` [R], the
        number of the row's question, from 0. Ids, masks and groups are int64, the rest float32.

    Raises:
        TreeError: If there is no row.
    """
    if not rows:
        raise TreeError("expected at least one row, found none; pass the rows of a tree")
    numbers: dict[str, int] = {}
    for row in rows:
        numbers.setdefault(row.group, len(numbers))
    ones = [[1] * len(row.completion_ids) for row in rows]
    return {
        "prompt_ids": _padded([row.prompt_ids for row in rows], pad_id, left=True),
        "prompt_mask": _padded([[1] * len(row.prompt_ids) for row in rows], 0, left=True),
        "completion_ids": _padded([row.completion_ids for row in rows], pad_id),
        "completion_mask": _padded(ones, 0),
        "sampled_mask": _padded([row.completion_mask for row in rows], 0),
        "logprobs": _padded([row.logprobs for row in rows], 0.0),
        "advantages": _padded([row.advantages for row in rows], 0.0),
        "rewards": torch.tensor([row.reward for row in rows], dtype=torch.float32),
        "group": torch.tensor([numbers[row.group] for row in rows]),
    }


def write_rows(rows: Iterable[FlatRow], path: str | Path) -> int:
    """Write rows as JSON lines, with the names of `FlatRow`.

    Args:
        rows: What is written.
        path: The file; its folder is made, earlier rows in it are replaced, anything else renamed.

    Returns:
        The number of rows.
    """
    lines = [json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_own(path, "".join(lines), '"completion_mask": ')
    return len(lines)


def read_rows(path: str | Path) -> list[FlatRow]:
    """Read what `write_rows` wrote.

    Args:
        path: The file.

    Raises:
        TreeError: If a line is no row; the message names it.
    """
    rows = []
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                fields = json.loads(line)
                fields["turns"] = [Turn(**turn) for turn in fields["turns"]]
                rows.append(FlatRow(**fields))
            except (ValueError, TypeError, KeyError) as error:
                raise TreeError(
                    f"{path}:{number}: expected a row as write_rows writes it, found "
                    f"{line[:80]!r}; export the trees again"
                ) from error
    return rows


def _rows(tree: RolloutTree) -> Iterable[FlatRow]:
    leaves = tree.leaves()
    shared = Counter(node for leaf in leaves for node in leaf.path())
    for leaf in leaves:
        yield _row(tree, leaf, leaf_reward(leaf), shared)


def _row(tree: RolloutTree, leaf: Node, reward: float, shared: Mapping[Node, int]) -> FlatRow:
    prompt = list(tree.root.inserted)
    row = FlatRow(_group(tree.question), prompt, [], [], [], [], [], reward, leaf.truncated)
    for node in leaf.path()[1:]:
        credit = node.advantage if leaf.row_advantage is None else leaf.row_advantage
        if credit is None:
            raise TreeError(
                f"every turn needs an advantage, found none at {node.key}; call assign_credit first"
            )
        start, sampled, inserted = len(row.completion_ids), len(node.sampled), len(node.inserted)
        row.turns.append(Turn(start, start + sampled, credit, node.value, shared[node]))
        row.completion_ids.extend([*node.sampled, *node.inserted])
        row.completion_mask.extend([1] * sampled + [0] * inserted)
        row.logprobs.extend([*node.logprobs, *[0.0] * inserted])
        row.advantages.extend([credit] * sampled + [0.0] * inserted)
    return row


def _group(question: object) -> str:
    """The id of a question, which is a table in trees that were read from JSON."""
    if isinstance(question, Mapping):
        return str(question["id"])
    return question.id if isinstance(question, Question) else str(question)


def _padded(ragged: Sequence[Sequence[float]], fill: float, *, left: bool = False) -> Tensor:
    """Lay rows out as a rectangle; the type is that of what fills it up."""
    width = max(map(len, ragged))
    rows = [
        [*[fill] * (width - len(row)), *row] if left else [*row, *[fill] * (width - len(row))]
        for row in ragged
    ]
    return torch.tensor(rows, dtype=torch.int64 if isinstance(fill, int) else torch.float32)
