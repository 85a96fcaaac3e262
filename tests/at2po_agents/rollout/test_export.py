"""Flat rows hold what the trees held, for every trainer alike."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_agents.errors import TreeError
from at2po_agents.learner.packing import pack
from at2po_agents.learner.partition import whole
from at2po_agents.rollout.export import flat_rows, grpo_batch, read_rows, write_rows
from at2po_agents.tree import RolloutTree
from at2po_envs import Outcome
from tests.at2po_agents.samples import random_tree, spec_tree


def test_a_row_is_an_episode() -> None:
    tree, nodes = spec_tree()
    for name, node in nodes.items():
        node.advantage, node.value = ord(name) - 97.0, None
    nodes["c"].outcome = Outcome(False, 0.0, True, truncated=True)
    b, c, d = flat_rows([tree])
    assert (c.prompt_ids, c.completion_ids, c.completion_mask) == ([0], [1, 2, 1, 2], [1, 0, 1, 0])
    assert c.logprobs == [-0.5, 0.0, -0.2, 0.0]
    assert c.advantages == [0.0, 0.0, 2.0, 0.0]
    assert [(t.start, t.end, t.advantage, t.rows) for t in c.turns] == [(0, 1, 0, 2), (2, 3, 2, 1)]
    assert (b.reward, c.reward, d.reward) == (0.0, 1.0, -1.0)
    assert (b.truncated, c.truncated) == (False, True)
    assert b.group == "question"


@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True))
@settings(max_examples=25)
def test_rows_survive_json_and_agree_with_the_pack(
    seeds: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trees = [random_tree(seed) for seed in seeds]
    rows = flat_rows(trees)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    assert write_rows(rows, path) == len(rows)
    assert read_rows(path) == rows
    # Through JSON a tree loses nothing that a row holds.
    copies = [RolloutTree.from_dict(json.loads(json.dumps(tree.to_dict()))) for tree in trees]
    assert [asdict(row) for row in flat_rows(copies)] == [asdict(row) for row in rows]
    # A pack lays rows out depth first.
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    order = [leaves.index(leaf) for tree in trees for leaf in whole(tree).leaves]
    leaves = [leaves[place] for place in order]
    batch, packed = grpo_batch([rows[place] for place in order], pad_id=99), pack(trees)
    sampled = batch["sampled_mask"].bool()
    assert (sampled.sum(1) == packed.rows.mask.sum(1)).all()
    assert torch.equal(batch["completion_ids"][sampled], _flat(packed, packed.targets))
    assert torch.equal(batch["advantages"][sampled], packed.rows.advantages[packed.rows.mask])
    assert torch.equal(batch["rewards"], packed.rows.rewards)
    assert torch.equal(batch["group"], packed.rows.tree)
    for i, leaf in enumerate(leaves):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        assert [*prompt.tolist(), *completion.tolist()] == leaf.ids()
        assert (batch["prompt_ids"][i][~batch["prompt_mask"][i].bool()] == 99).all()
        logprobs = [p for node in leaf.path() for p in node.logprobs]
        assert batch["logprobs"][i][sampled[i]].tolist() == pytest.approx(logprobs)


def _flat(packed, unique):
    """Numbers of unique tokens, row by row without padding."""
    return packed.rows.gather(unique)[packed.rows.mask]


def test_row_advantages_replace_those_of_turns() -> None:
    tree = random_tree(3)
    for leaf in tree.leaves():
        leaf.row_advantage = 7.0
    for row in flat_rows([tree]):
        assert {turn.advantage for turn in row.turns} <= {7.0}


def test_trees_without_credit_and_broken_files_are_refused(tmp_path: Path) -> None:
    tree, _ = spec_tree()
    with pytest.raises(TreeError, match="needs an advantage"):
        flat_rows([tree])
    tree.leaves()[0].reward = None
    with pytest.raises(TreeError, match="needs a reward"):
        flat_rows([tree])
    with pytest.raises(TreeError, match="at least one row"):
        grpo_batch([])
    (tmp_path / "rows.jsonl").write_text('{"group": "a"}\n')
    with pytest.raises(TreeError, match="rows.jsonl:1"):
        read_rows(tmp_path / "rows.jsonl")


def test_rows_replace_rows_and_nothing_else(tmp_path: Path) -> None:
    rows, path = flat_rows([random_tree(0)]), tmp_path / "rows.jsonl"
    path.write_text("mine")
    for _ in range(2):
        write_rows(rows, path)
    assert read_rows(path) == rows
    assert {each.name for each in tmp_path.iterdir()} == {"rows.jsonl", "rows.jsonl.1"}
    assert (tmp_path / "rows.jsonl.1").read_text() == "mine"
