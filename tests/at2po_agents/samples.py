"""Small trees and models that several test files share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from at2po_agents.learner.learner import Learner
from at2po_agents.policy.norms import exact_norms
from at2po_agents.tree import Node, RolloutTree, Row

VOCABULARY = 31


def turn(tree: RolloutTree, parent: Node, surprisal: float, reward: float | None = None) -> Node:
    """Add a turn of one sampled token, another one than its siblings', with a given surprisal."""
    token = 1 + len(parent.children)
    return tree.add(parent, sampled=[token], logprobs=[-surprisal], inserted=[2], reward=reward)


def spec_tree() -> tuple[RolloutTree, dict[str, Node]]:
    """Build root -> {a (0.5) -> {c (0.2, r=1), d (0.6, r=-1)}, b (0.3, r=0)}."""
    tree = RolloutTree("question", [0])
    nodes = {"a": turn(tree, tree.root, 0.5), "b": turn(tree, tree.root, 0.3, 0.0)}
    nodes["c"] = turn(tree, nodes["a"], 0.2, 1.0)
    nodes["d"] = turn(tree, nodes["a"], 0.6, -1.0)
    return tree, nodes


def random_tree(seed: int, size: int = 8, longest: int = 5) -> RolloutTree:
    """Build a tree of up to `size` turns of up to `longest` tokens; later turns may be empty."""
    rng = np.random.default_rng(seed)

    def ids(shortest: int) -> list[int]:
        return rng.integers(0, VOCABULARY, rng.integers(shortest, longest + 1)).tolist()

    tree = RolloutTree(f"question {seed}", ids(1))
    nodes = [tree.root]
    known: dict[tuple[int, ...], list[float]] = {}  # a policy gives the same tokens the same
    for _ in range(rng.integers(1, size + 1)):
        sampled = ids(0 if len(nodes) > 1 else 1)
        logprobs = (-rng.exponential(size=len(sampled))).tolist()
        parent = nodes[rng.integers(len(nodes))]
        logprobs = known.setdefault((*parent.ids(), -1, *sampled), logprobs)
        nodes.append(tree.add(parent, sampled=sampled, logprobs=logprobs, inserted=ids(0)))
    for leaf in tree.leaves():
        leaf.reward = float(rng.integers(-1, 2))
    for node in nodes[1:]:
        node.advantage = float(rng.normal())
    return tree


def trees(count: int, seed: int = 0) -> list[RolloutTree]:
    """Build trees whose leaves differ in reward."""
    found: list[RolloutTree] = []
    while len(found) < count:
        tree = random_tree(seed, size=12)
        seed += 1
        if len({leaf.reward for leaf in tree.leaves()}) > 1:
            found.append(tree)
    return found


def flat_tree(seed: int) -> RolloutTree:
    """Build a tree whose leaves all have the same reward."""
    tree = random_tree(seed)
    for leaf in tree.leaves():
        leaf.reward = 1.0
    return tree


def flat_rows(trees: Sequence[RolloutTree]) -> list[Row]:
    """Return the rows of trees in the order in which a pack holds them."""
    return [row for tree in trees for row in sorted(tree.rows(), key=lambda row: row.leaf.key)]


class StepLearner(Learner):
    """A learner that credits trees before it learns from them, as a training step does."""

    def update(self, trees: Sequence[RolloutTree], step: int = 0) -> dict[str, float]:
        for tree in trees:
            self.algorithm.assign_credit(tree)
        return super().update(trees, step)


def damped(learner: Learner) -> Learner:
    """Make steps smooth in the gradient: Adam's usual epsilon turns rounding noise into steps."""
    learner.optimizer.param_groups[0]["eps"] = 1.0
    return learner


def tiny_model(
    family: str = "qwen3", kv_heads: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """Build a random model with 4 query heads, exact in float64."""
    shape = dict(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=4,
        max_position_embeddings=256,
        tie_word_embeddings=family == "qwen3",
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "qwen3":
            model: PreTrainedModel = Qwen3ForCausalLM(Qwen3Config(**shape))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape))
        exact_norms(model)
        for norm in (module for module in model.modules() if isinstance(module, nn.RMSNorm)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return model.to(dtype).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="[UNK]")
