"""What a training step costs in tokens and FLOPs, with and without sharing: arithmetic on trees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from at2po_agents.policy.sizes import Decoder
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

    Source: PaLM (arXiv 2204.02311), Appendix B, of which forward passes take a third: 2 per weight
        and token, and 4 * layers * (heads * head_dim) per pair, for the scores and for the weighted
        sum of values; norms, rotations and softmax are left out.
    """
    pair = 4 * decoder.layers * decoder.query_width
    logit = 2 * decoder.hidden * decoder.vocabulary
    return work.tokens * 2 * decoder.weights + work.pairs * pair + work.logits * logit


def rows_work(leaves: Iterable[Node]) -> Work:
    """Count the work of one forward pass over the unique tokens of rows of a tree.

    Args:
        leaves: The ends of the rows.
    """
    starts: dict[Node, int] = {}
    for leaf in leaves:
        start = 0
        for node in leaf.path():
            starts[node] = start
            start += len(node.sampled) + len(node.inserted)
    return add(
        stretch(start, start + len(node.sampled) + len(node.inserted), len(node.sampled))
        for node, start in starts.items()
    )


def stretch(start: int, stop: int, logits: int = 0) -> Work:
    """Return the work of tokens start + 1 to stop of a row; each attends to all up to itself."""
    return Work(stop - start, (stop * (stop + 1) - start * (start + 1)) // 2, logits)


def step_work(trees: Iterable[RolloutTree]) -> dict[str, Work]:
    """Count the work of a step on given trees.

    Args:
        trees: Complete trees.

    Returns:
        decode: sampling every turn token by token, the contexts there. Making the contexts: prefill
        (each token once), prefill_chains (keys and values kept along a chain, but every chain and
        every fork starts from nothing; the first child of a turn goes on its chain), prefill_turns
        (every turn starts from nothing). One forward pass of the learner: packed (every token once)
        and flat (every row alone).
    """
    names = ("decode", "prefill", "prefill_chains", "prefill_turns", "packed", "flat")
    parts: dict[str, list[Work]] = {name: [] for name in names}
    for tree in trees:
        leaves = tree.leaves()
        parts["packed"].append(rows_work(leaves))
        parts["flat"] += [rows_work([leaf]) for leaf in leaves]
        ends: dict[Node, int] = {}
        for node in tree.nodes():
            start = ends[node.parent] if node.parent is not None else 0
            spoken = start + len(node.sampled)
            ends[node] = spoken + len(node.inserted)
            if node.sampled:
                parts["decode"].append(stretch(start, spoken - 1, len(node.sampled)))
            if node.children:
                # A turn's last token was sampled but has not passed through the model yet.
                parts["prefill"].append(stretch(max(spoken - 1, 0), ends[node]))
            if node.parent is not None:
                goes_on = node.parent.parent is not None and node.index == 0
                kept = start - len(node.parent.inserted) - 1 if goes_on else 0
                parts["prefill_chains"].append(stretch(kept, start))
                parts["prefill_turns"].append(stretch(0, start))
    return {name: add(works) for name, works in parts.items()}


def counts(trees: Sequence[RolloutTree]) -> dict[str, Any]:
    """Count a collection's leaves, turns and tokens.

    Args:
        trees: Complete trees.

    Returns:
        leaves, turns, turns_per_leaf, and tokens: prompt, sampled, inserted (without prompts), all
        of them once a tree.
    """
    turns = [node for tree in trees for node in tree.nodes() if node.parent is not None]
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    return {
        "leaves": len(leaves),
        "turns": len(turns),
        "turns_per_leaf": round(sum(leaf.depth for leaf in leaves) / len(leaves), 3),
        "prompt": sum(len(tree.root.inserted) for tree in trees),
        "sampled": sum(len(node.sampled) for node in turns),
        "inserted": sum(len(node.inserted) for node in turns),
    }


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
