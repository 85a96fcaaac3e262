"""How uncertain the policy was about a turn: estimates from what was kept while sampling."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from at2po_agents.errors import TreeError
from at2po_agents.tree import Node
from at2po_envs import ToolCall

if TYPE_CHECKING:  # it takes seconds, and settings do without it
    from transformers import PreTrainedTokenizerBase

Entropy = Literal["surprisal", "full", "query"]
"""Per token -log p of the sampled one (AT2PO, arXiv 2601.04767, Eq. 2), or the entropy of the whole
distribution (only where the engine was asked for it), or -log p within the tool call's text."""


def token_entropies(node: Node, kind: Entropy = "surprisal") -> list[float]:
    """Return the entropy estimate of each token that counts, in nats.

    Args:
        node: A sampled turn.
        kind: The estimate; a turn without a tool call counts whole under "query".

    Raises:
        TreeError: If "full" is asked for and the engine did not give it.
    """
    if kind == "full":
        if len(node.entropies) != len(node.sampled):
            raise TreeError(
                f"entropy 'full' needs one number per sampled token, found {len(node.entropies)} "
                f"for {len(node.sampled)} at {node.key}; give the engine keep_entropies=True, "
                "or use 'surprisal'"
            )
        return node.entropies
    surprisals = [-logprob for logprob in node.logprobs]
    start, stop = node.info.get("query", (0, len(surprisals))) if kind == "query" else (0, None)
    return surprisals[start:stop]


def turn_entropy(node: Node, kind: Entropy = "surprisal") -> float:
    """Return the mean estimate over a turn's tokens, in nats (0 where nothing was sampled)."""
    entropies = token_entropies(node, kind)
    return sum(entropies) / len(entropies) if entropies else 0.0


def sampling_entropies(node: Node) -> NDArray[np.float64]:
    """Return the best that is known of each sampled token's entropy, in nats.

    Args:
        node: A sampled turn.

    Returns:
        [tokens]: entropies of the whole distribution, else -log p; NaN where neither was kept.
    """
    for known in (node.entropies, [-logprob for logprob in node.logprobs]):
        if len(known) == len(node.sampled):
            return np.array(known, np.float64)
    return np.full(len(node.sampled), np.nan)


def entropy_mean_std(leaves: Iterable[Node]) -> tuple[float, float]:
    """Return mean and standard deviation (ddof=1) of all row tokens' sampling entropies, in nats.

    Args:
        leaves: The ends of the rows.

    Returns:
        Both numbers, over the tokens whose entropy is known; a standard deviation of 0, and that
        of fewer than two tokens, is given as 1.
    """
    rows = [sampling_entropies(node) for leaf in leaves for node in leaf.path() if node.sampled]
    flat = np.concatenate(rows or [np.zeros(0)])
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return 0.0, 1.0
    std = float(flat.std(ddof=1)) if len(flat) > 1 else 1.0
    return float(flat.mean()), std or 1.0


def query_span(
    tokenizer: PreTrainedTokenizerBase, node: Node, calls: Iterable[ToolCall]
) -> tuple[int, int] | None:
    """Find the sampled tokens that spell the arguments of a turn's tool calls.

    Args:
        tokenizer: Of the policy.
        node: The turn.
        calls: Its tool calls, with `arguments` by name.

    Returns:
        First token and the one after the last; None if no argument stands in the text as it is.
    """
    texts = [text for call in calls for text in call.arguments.values() if isinstance(text, str)]
    places = [(node.action.rfind(text), len(text)) for text in texts if text]
    spans = [(at, at + length) for at, length in places if at >= 0]
    if not spans:
        return None

    def written(tokens: int) -> int:
        return len(tokenizer.decode(node.sampled[:tokens], skip_special_tokens=True))

    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    lengths = range(len(node.sampled) + 1)
    start = bisect_right(lengths, first, key=written) - 1
    return start, bisect_left(lengths, last, key=written)
