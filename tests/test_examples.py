"""The single-file AT²PO against the library: turns chosen, credit, loss and gradients."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.algorithms import ATPO
from at2po_agents.config.train import TrainConfig, load_config
from at2po_agents.learner.logprobs import token_logprobs
from at2po_agents.learner.packing import pack
from at2po_agents.learner.partition import whole
from at2po_agents.policy.loading import load_model
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.samples import random_tree, tiny_model

FILE = Path(__file__).parents[1] / "examples" / "atpo_single_file.py"
LIBRARY = load_config(TrainConfig, "mini-atpo")


def load(path: Path) -> ModuleType:
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


single = load(FILE)


def twin(tree: RolloutTree) -> Any:
    """Copy a tree of the library into nodes of the single file."""
    copies: dict[Any, Any] = {}
    for node in tree.nodes():
        copies[node] = copies[node.parent].add() if node.parent else single.Node()
        for name in ("sampled", "logprobs", "inserted"):
            setattr(copies[node], name, list(getattr(node, name)))
        copies[node].reward = node.reward
    return copies[tree.root]


def test_it_is_one_readable_file() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    ours = [line for line in text.splitlines() if "import" in line and "at2po_agents" in line]
    assert ours == ["from at2po_agents.policy.loading import load_model"]


def test_its_settings_are_those_of_the_preset() -> None:
    algorithm = LIBRARY.algorithm
    assert (single.CHAINS, single.ITERATIONS, single.BEAM) == (
        algorithm.chains,
        algorithm.iterations,
        algorithm.beam,
    )
    assert (single.CLIP_LOW, single.CLIP_HIGH) == (algorithm.clip_low, algorithm.clip_high)
    assert single.PENALTY == algorithm.branch_penalty
    assert single.QUESTIONS == LIBRARY.rollout.questions_per_step
    assert single.LEARNING_RATE == LIBRARY.optim.learning_rate
    assert single.RESPONSE == LIBRARY.rollout.max_response_tokens


@given(seed=st.integers(0, 2**32 - 1))
def test_the_same_turns_are_sampled_again(seed: int) -> None:
    tree = random_tree(seed, size=12)
    chosen = LIBRARY.algorithm.expansion().forks(tree, 0, np.random.default_rng(0))
    root = twin(tree)
    place = {id(node): number for number, node in enumerate(single.nodes_of(root))}
    library = {node: number for number, node in enumerate(tree.nodes())}
    assert [place[id(node)] for node in single.to_fork(root)] == [library[n] for n in chosen]


@given(seed=st.integers(0, 2**32 - 1))
def test_the_same_credit_is_given(seed: int) -> None:
    tree = random_tree(seed, size=12)
    LIBRARY.algorithm.assign_credit(tree)
    root = twin(tree)
    single.assign_credit(root)
    ours = single.nodes_of(root)
    assert [n.value for n in ours] == pytest.approx([n.value for n in tree.nodes()], abs=1e-12)
    # The root has a value but samples nothing.
    expected = [node.advantage for node in tree.nodes()[1:]]
    assert [node.advantage for node in ours[1:]] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), drift=st.sampled_from([0.0, 1e-3, 1e-2]))
def test_loss_and_gradients_are_equal(seed: int, drift: float) -> None:
    trees = [random_tree(seed), random_tree(seed + 1)]
    model, algorithm = tiny_model(), ATPO()
    for tree in trees:
        algorithm.assign_credit(tree)
    assume(any(node.advantage for tree in trees for node in tree.nodes()[1:]))

    packed = pack(trees, dtype=torch.float64)
    logp = token_logprobs(model, packed)
    noise = torch.randn(logp.shape, generator=torch.Generator().manual_seed(seed % 2**31)).double()
    old = logp.detach() + drift * noise
    expected = algorithm.loss(packed.rows, packed.rows.gather(logp), packed.rows.gather(old)).loss
    gradients = torch.autograd.grad(expected, list(model.parameters()))

    total = torch.zeros((), dtype=torch.float64)
    start = 0
    library_rows = packed.rows.gather(old)
    for tree in trees:
        root = twin(tree)
        single.assign_credit(root)
        rows = single.rows_of(root, torch.float64)
        rows.old = torch.zeros_like(rows.advantage)
        order = whole(tree).leaves  # a pack's rows stand depth first, the file's breadth first
        for row, leaf in enumerate(tree.leaves()):
            place = start + order.index(leaf)
            here = packed.rows.mask[place]
            rows.old[row, rows.mask[row].bool()] = library_rows[place, here]
        start += len(rows.ids)
        own = single.logprobs(model, rows)
        total = total + single.atpo_loss(rows, own, rows.old, packed.rows.total_rows)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad(total, list(model.parameters())), gradients, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_it_grows_whole_trees_and_learns_from_them() -> None:
    model, tokenizer = load_model("mini")
    policy = single.Policy(model, tokenizer, seed=0)
    env = gymnasium.make("at2po/MiniWiki-v0", split="train").unwrapped
    roots = single.grow(policy, env, [0, 1])
    for root in roots:
        leaves = single.leaves_of(root)
        assert len(leaves) == single.CHAINS + single.ITERATIONS * single.BEAM
        assert {leaf.reward for leaf in leaves} <= {-1.0, 0.0, 1.0}
        for node in single.nodes_of(root)[1:]:
            assert len(node.sampled) == len(node.logprobs) > 0
    # The probabilities noted while sampling are those of the rows that are learned from.
    rows = single.rows_of(roots[0])
    with torch.no_grad():
        logp = single.logprobs(model, rows)
    for row, leaf in enumerate(single.leaves_of(roots[0])):
        noted = torch.tensor([value for node in leaf.path() for value in node.logprobs])
        torch.testing.assert_close(logp[row, rows.mask[row].bool()], noted, rtol=0, atol=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    single.update(model, torch.optim.AdamW(model.parameters(), lr=1e-4), roots)
    assert any((a != b).any() for a, b in zip(before, model.parameters(), strict=True))
