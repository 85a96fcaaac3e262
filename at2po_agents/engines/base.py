"""What every generation engine does: token ids in, sampled token ids and their logprobs out."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from at2po_agents.errors import EngineBusyError, RequestError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to be sampled.

    Args:
        key: names the request in its completion; unique among the unfinished requests.
        ids: the whole context as token ids, at least one.
        seed: integer in [0, 2**64); the sampled turn is a function of the context and this seed.
        max_new_tokens: at least 1.
        temperature: divides the logits; 0 means greedy.
        stop: texts, none empty, that end the turn as soon as one of them is complete.
    """

    key: Hashable
    ids: Sequence[int]
    seed: int
    max_new_tokens: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished turn.

    Args:
        key: the key of its request.
        ids: the sampled tokens, exactly as sampled: whole tokens up to the one that completed a
            stop string (which may carry further characters), or up to and with the end token.
        logprobs: natural log-probability of each sampled token at the request's temperature
            (at temperature 1 for greedy requests).
        text: the decoded `ids` without special tokens.
        finish: why the turn ended: a stop string, an end-of-sequence token, or the token limit.
        entropies: entropy of the whole distribution at each sampled token in nats, at the
            temperature of `logprobs`; empty unless the engine computes it.
    """

    key: Hashable
    ids: list[int]
    logprobs: list[float]
    text: str
    finish: Literal["stop", "eos", "length"]
    entropies: list[float] = field(default_factory=list)


@dataclass(slots=True)
class EngineStats:
    """Token counters since the engine was made.

    Args:
        sampled: tokens sampled.
        prefilled: context tokens whose keys and values were computed.
        reused: context tokens whose keys and values were taken from earlier work.
    """

    sampled: int = 0
    prefilled: int = 0
    reused: int = 0


class Engine(Protocol):
    """Continuous batching: submit at any time, then step until every completion has come back."""

    stats: EngineStats
    max_length: int  # most tokens of a request, context and sampled together

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; they start at the next steps as room allows."""

    def step(self) -> list[Completion]:
        """Advance every running request by one token and return those that finished."""

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take new model weights, and wake up; only legal while nothing runs or waits.

        The state is that of a model like the one that the engine was made with. If that has an
        adapter (LoRA), the adapter's tensors are enough; if it has none, an adapter's work comes in
        merged weights.
        """

    def sleep(self) -> None:
        """Release weights and KV cache, as far as the engine can, until `load_weights`."""

    def close(self) -> None:
        """Drop all requests and free the memory held for generation."""


def check_idle(unfinished: Collection[Hashable]) -> None:
    """Refuse what an engine cannot do while requests run or wait.

    Raises:
        EngineBusyError: there are unfinished requests.
    """
    if unfinished:
        raise EngineBusyError(
            f"expected an idle engine, found {len(unfinished)} unfinished requests; "
            "step until all completions are back, then load the weights"
        )


def check_requests(
    requests: Sequence[Request],
    unfinished: Collection[Hashable],
    *,
    max_length: int,
    vocabulary: int,
) -> set[Hashable]:
    """Refuse requests if one of them cannot be served exactly as asked.

    Args:
        requests: the requests to check.
        unfinished: keys of the requests that run or wait.
        max_length: most positions the model has.
        vocabulary: ids run from 0 to this number, exclusive.

    Returns:
        Their keys.

    Raises:
        RequestError: a request cannot be served, or its key is taken.
    """
    keys: set[Hashable] = set()
    for request in requests:
        if problem := _problem(request, max_length=max_length, vocabulary=vocabulary):
            raise RequestError(f"request {request.key!r}: expected {problem}")
        if request.key in unfinished or request.key in keys:
            raise RequestError(
                f"expected a key of its own for every unfinished request, found {request.key!r}"
                " twice; add a counter to the key"
            )
        keys.add(request.key)
    return keys


def _problem(request: Request, *, max_length: int, vocabulary: int) -> str:
    """Say why a request cannot be served exactly as asked; nothing is ever cut silently."""
    size, new = len(request.ids), request.max_new_tokens
    if size == 0 or new < 1:
        return (
            f"at least one context token and max_new_tokens >= 1, found {size} and {new}; "
            "prepend a start token or raise the limit"
        )
    if size + new > max_length:
        return (
            f"at most {max_length} positions, found {size} context + {new} new tokens; "
            "shorten the context or lower max_new_tokens"
        )
    if min(request.ids) < 0 or max(request.ids) >= vocabulary:
        return (
            f"ids in [0, {vocabulary}), found {min(request.ids)}..{max(request.ids)}; "
            "encode with the tokenizer of this model"
        )
    if not (math.isfinite(request.temperature) and request.temperature >= 0):
        return f"a finite temperature >= 0, found {request.temperature}; use 0 for greedy"
    if not 0 <= request.seed < 2**64:
        return f"a seed in [0, 2**64), found {request.seed}; take it modulo 2**64"
    return "non-empty stop strings, found an empty one; leave it out" if "" in request.stop else ""
