"""What a training step costs in tokens and FLOPs, with and without sharing: arithmetic on trees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.random import Generator

from at2po_agents.policy.sizes import Decoder
from at2po_agents.rollout.expansion import RandomExpansion
from at2po_agents.tree import Node, RolloutTree


class Work(NamedTuple):
    """Work of a decoder.

    Attributes:
        tokens: Tokens that pass through the layers.
        pairs: Pairs of such a token and a token that it attends to, itself included.
        logits: Tokens at which the distribution over the vocabulary is computed.
    """

    tokens: int = 0
    pairs: int = 0
    logits: int = 0


def add(parts: Iterable[Work]) -> Work:
    """Return the sum of work; of none no work."""
    return Work(*map(sum, zip(Work(), *parts, strict=True)))


def flops(decoder: Decoder, work: Work) -> int:
    """Return the floating-point operations of forward work.

    Args:
        decoder: The model.
        work: What is done.

    Source: 2 per weight and token; attention 4 * layers * (heads * head_dim) per pair, for the
    scores and for the weighted sum of values; norms, rotations and softmax are left out.
    """
    pair = 4 * decoder.layers * decoder.query_width
    logit = 2 * decoder.hidden * decoder.vocabulary
    return work.tokens * 2 * decoder.weights + work.pairs * pair + work.logits * logit


@dataclass(frozen=True)
class PaperStep:
    """A step of the paper's setting.

    Attributes:
        prompts: Questions per step.
        chains: M.
        iterations: L.
        beam: K; a tree has M + L * K = 22 leaves.
        mean_turns: Turns per leaf; each chain is drawn the integers around it.
        prompt: Tokens of a prompt.
        turn: Tokens sampled in a turn. An assumption: the paper does not say.
        result: Tokens of a search's result: 3 passages of 100 words at 1.35 tokens a word, and 35
            for titles and tags. An assumption too.
        mini_batches: Optimizer steps per update.

    Source: AT2PO paper, Section 4.1 and its released code, where not called an assumption.
    """

    prompts: int = 64
    chains: int = 10
    iterations: int = 2
    beam: int = 6
    mean_turns: float = 3.71
    prompt: int = 230
    turn: int = 120
    result: int = 440
    mini_batches: int = 8

    def trees(self, rng: Generator) -> list[RolloutTree]:
        """Draw the step's trees, forks at random turns; all ids are 0.

        Args:
            rng: Draws turns and forks.
        """
        search = RandomExpansion(self.chains, self.iterations, self.beam)
        trees = []
        for number in range(self.prompts):
            tree = RolloutTree(number, [0] * self.prompt)
            parents = [tree.root] * search.initial()
            for iteration in range(self.iterations + 1):
                for parent in parents:
                    self._chain(tree, parent, rng)
                parents = search.forks(tree, iteration, rng)
            trees.append(tree)
        return trees

    def _chain(self, tree: RolloutTree, node: Node, rng: Generator) -> None:
        turns = int(self.mean_turns) + int(rng.random() < self.mean_turns % 1)
        for depth in range(node.depth + 1, max(turns, node.depth + 1) + 1):
            node = tree.add(node, sampled=[0] * self.turn)
            node.inserted = [] if depth >= turns else [0] * self.result


def step_work(trees: Iterable[RolloutTree]) -> dict[str, Work]:
    """Count the work of a step on given trees.

    Args:
        trees: Complete trees.

    Returns:
        decode: sampling every turn token by token, the contexts there. Making the contexts: prefill
        (each token once), prefill_chains (keys and values kept along a chain, but every chain and
        every fork starts anew; the first child of a turn goes on its chain), prefill_turns (every
        turn starts anew). One forward pass of the learner: packed (every token once) and flat
        (every row alone).
    """
    found = {name: [0, 0, 0] for name in _PARTS}

    def add(name: str, start: int, stop: int, logits: int = 0) -> None:
        pairs = (stop * (stop + 1) - start * (start + 1)) // 2
        for place, number in enumerate((stop - start, pairs, logits)):
            found[name][place] += number

    for tree in trees:
        ends: dict[Node, int] = {}
        sampled: dict[Node, int] = {}
        for node in tree.nodes():
            start = ends[node.parent] if node.parent is not None else 0
            spoken = start + len(node.sampled)
            ends[node] = spoken + len(node.inserted)
            sampled[node] = len(node.sampled) + (sampled[node.parent] if node.parent else 0)
            add("packed", start, ends[node], len(node.sampled))
            if node.sampled:
                add("decode", start, spoken - 1, len(node.sampled))
            if node.children:
                # A turn's last token was sampled but has not passed through the model yet.
                add("prefill", max(spoken - 1, 0), ends[node])
            else:
                add("flat", 0, ends[node], sampled[node])
            if node.parent is not None:
                goes_on = node.parent.parent is not None and node.index == 0
                kept = start - len(node.parent.inserted) - 1 if goes_on else 0
                add("prefill_chains", kept, start)
                add("prefill_turns", 0, start)
    return {name: Work(*numbers) for name, numbers in found.items()}


_PARTS = ("decode", "prefill", "prefill_chains", "prefill_turns", "packed", "flat")


def bill(work: dict[str, Work], decoder: Decoder, mini_batches: int) -> dict[str, Any]:
    """Say what a step costs with all sharing, with chains alone sharing, and with none.

    Args:
        work: What `step_work` counted.
        decoder: The model.
        mini_batches: Optimizer steps per update. The first needs no pass for old log-probabilities
            in ours; elsewhere there is one over everything.

    Returns:
        For each part of the step and each way, tokens and TFLOPs; the backward pass counts twice
        the forward one, without recomputation of activations. The reference pass is none of the
        total: at a coefficient of 0 there is none.
    """
    later = (mini_batches - 1) / mini_batches
    ways = {
        "shared": ("prefill", "packed", later),
        "chains": ("prefill_chains", "flat", 1.0),
        "nothing": ("prefill_turns", "flat", 1.0),
    }
    bills = {}
    for name, (prefill, forward, old) in ways.items():
        parts = {
            "decode": _part(work["decode"], decoder),
            "prefill": _part(work[prefill], decoder),
            "old log-probabilities": _part(work[forward], decoder, old),
            "update": _part(work[forward], decoder, passes=3),
        }
        total = sum(part["tflops"] for part in parts.values())
        bills[name] = {
            **parts,
            "total": {"tflops": round(total, 1)},
            "reference pass, if any": _part(work[forward], decoder),
        }
    return bills


def _part(work: Work, decoder: Decoder, share: float = 1.0, passes: int = 1) -> dict[str, float]:
    tflops = flops(decoder, work) * share * passes / 1e12
    return {"tokens": round(work.tokens * share), "tflops": round(tflops, 1)}
