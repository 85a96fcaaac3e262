"""Trees to measure training with: the demo's own, and random ones of the paper's shape."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator, default_rng

from at2po_agents.algorithms import ATPO
from at2po_agents.config.train import TrainConfig, load_config
from at2po_agents.engines import TransformersEngine
from at2po_agents.policy.loading import load_model
from at2po_agents.rollout.environments import make_env
from at2po_agents.tree import Node, RolloutTree
from at2po_agents.workers.rollout_worker import new_collector
from benchmarks.errors import EvaluationError


def demo_trees(count: int, seed: int = 0) -> list[RolloutTree]:
    """Collect trees with the embedded model as the demo does, and credit them.

    Args:
        count: Number of trees, >= 1.
        seed: Seed of the rollouts.

    Returns:
        The first trees that have something to learn from.

    Raises:
        EvaluationError: If there are fewer among three times as many.
    """
    config = load_config(TrainConfig, "demo")
    model, tokenizer = load_model(config.model.name)
    env = make_env(config.env, config.env_options)
    collector = new_collector(config, env, TransformersEngine(model, tokenizer), tokenizer)
    trees = collector.collect(env.questions[: 3 * count], config.algorithm.expansion(), seed=seed)
    for tree in trees:
        config.algorithm.assign_credit(tree)
    found = [tree for tree in trees if any(node.advantage for node in tree.nodes())]
    if len(found) < count:
        raise EvaluationError(
            f"expected {count} trees with different rewards, found {len(found)} among "
            f"{len(trees)}; measure fewer"
        )
    return found[:count]


def paper_trees(count: int, seed: int = 0, vocabulary: int = 2048) -> list[RolloutTree]:
    """Grow random trees of the shape of the paper's runs, and credit them.

    Args:
        count: Number of trees, >= 1.
        seed: Of sizes, tokens, surprisals and rewards.
        vocabulary: Number of token ids.

    Returns:
        Trees of 22 leaves (10 chains, then twice 6 forks at the turns of the highest entropy) that
        are 3.7 turns deep on average: a prompt of 230 tokens, turns of 80 to 100 sampled tokens,
        between them 3 passages of 100 words (390 tokens).
    """
    return [_paper_tree(default_rng([seed, number]), vocabulary) for number in range(count)]


def _paper_tree(rng: Generator, vocabulary: int) -> RolloutTree:
    def ids(count: int) -> list[int]:
        return [int(token) for token in rng.integers(1, vocabulary, count)]

    def play(parent: Node) -> None:
        """Sample turns below a node up to an answer."""
        depth, ended = parent.depth, False
        while not ended:
            depth += 1
            ended = depth >= 6 or (depth >= 2 and rng.random() < 0.4)
            count = int(rng.integers(80, 101))
            parent = tree.add(
                parent,
                sampled=ids(count),
                logprobs=[-float(x) for x in rng.exponential(rng.uniform(0.1, 1.0), count)],
                inserted=[] if ended else ids(390),
                reward=float(rng.integers(0, 2)) if ended else None,
            )

    tree, algorithm = RolloutTree("", ids(230)), ATPO()
    expansion = algorithm.expansion()
    for _ in range(expansion.initial()):
        play(tree.root)
    for iteration in range(algorithm.iterations):
        for parent in expansion.forks(tree, iteration, rng):
            play(parent)
    algorithm.assign_credit(tree)
    return tree


SHAPES: dict[str, Callable[[int, int], list[RolloutTree]]] = {
    "demo": demo_trees,
    "paper": paper_trees,
}
