from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.errors import AgentError, TreeError
from at2po_agents.tree import RolloutTree
from at2po_envs import Outcome
from tests.at2po_agents.samples import random_tree, spec_tree


def test_nodes_and_leaves_are_breadth_first() -> None:
    tree, at = spec_tree()
    assert tree.nodes() == [tree.root, at["a"], at["b"], at["c"], at["d"]]
    assert tree.leaves() == [at["b"], at["c"], at["d"]]


def test_address_of_a_node() -> None:
    tree, at = spec_tree()
    assert (tree.root.key, at["a"].key, at["d"].key) == ((), (0,), (0, 1))
    assert (tree.root.depth, at["b"].depth, at["d"].depth) == (0, 1, 2)
    assert at["d"].path() == [tree.root, at["a"], at["d"]]


def test_surprisal_is_the_mean_of_minus_logprobs() -> None:
    tree = RolloutTree("q", [1])
    node = tree.add(tree.root, sampled=[1, 2], logprobs=[-0.5, -1.5])
    assert node.surprisal == 1.0
    assert tree.root.surprisal == 0.0


def test_row_joins_prompt_sampled_and_inserted() -> None:
    tree = RolloutTree("q", [7, 8])
    first = tree.add(tree.root, sampled=[1, 2], logprobs=[0.0, 0.0], inserted=[9])
    tree.add(first, sampled=[3], logprobs=[0.0])
    (row,) = tree.rows()
    assert row.ids == [7, 8, 1, 2, 9, 3]
    assert row.sampled == [False, False, True, True, False, True]
    assert first.ids() == [7, 8, 1, 2, 9]


@given(st.integers(0, 2**32))
def test_rows_never_change_tokens(seed: int) -> None:
    tree = random_tree(seed)
    rows = tree.rows()
    assert [row.leaf for row in rows] == tree.leaves()
    for row in rows:
        tokens = list(tree.root.inserted)
        for node in row.leaf.path()[1:]:
            tokens += node.sampled + node.inserted
        assert row.ids == tokens
        assert sum(row.sampled) == sum(len(node.sampled) for node in row.leaf.path())
    assert tree.unique_tokens <= sum(len(row.ids) for row in rows)


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(TreeError, match="at least one prompt token") as caught:
        RolloutTree("q", [])
    assert isinstance(caught.value, AgentError | ValueError)


@given(st.integers(0, 2**32))
def test_json_round_trip_keeps_everything_but_states(seed: int) -> None:
    tree = random_tree(seed)
    tree.root.state = object()
    tree.leaves()[-1].info = {"titles": ["Ada"], "f1": 0.5}
    tree.leaves()[0].outcome = Outcome(False, 0.5, True, "Ada", flags=("tool_failed",))
    again = RolloutTree.from_dict(json.loads(json.dumps(tree.to_dict())))
    assert again.to_dict() == tree.to_dict()
    assert [node.key for node in again.nodes()] == [node.key for node in tree.nodes()]
    assert again.root.state is None


def test_dataclass_question_is_written_as_its_fields() -> None:
    @dataclass
    class Question:
        id: str
        golden_answers: tuple[str, ...]

    data = RolloutTree(Question("1", ("x",)), [1]).to_dict()
    assert data["question"] == {"id": "1", "golden_answers": ("x",)}
