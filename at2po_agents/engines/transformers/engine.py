"""Continuous batching over any Hugging Face causal language model with full attention."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines.base import (
    Completion,
    EngineStats,
    Request,
    check_idle,
    check_requests,
)
from at2po_agents.engines.transformers.batch_state import BatchState
from at2po_agents.engines.transformers.decoding import decodable, decode
from at2po_agents.engines.transformers.kv_cache import ATTENTION, RowCache
from at2po_agents.engines.transformers.prefix_cache import PrefixCache, common_prefix
from at2po_agents.engines.transformers.sampling import entropies, sample, uniforms
from at2po_agents.engines.turns import Vocabulary
from at2po_agents.errors import UnsupportedModelError
from at2po_agents.policy.sizes import optional
from at2po_agents.policy.weights import copy_weights

# Tokens per prefill pass, padding included: bounds the memory of activations.
_PREFILL_TOKENS = 2048
# Waiting for a neighbour's prefix costs one more forward pass, however many wait together, so they
# must save some tokens between them.
_WORTH_WAITING = 16


class TransformersEngine:
    """Engine that drives a model in this process, on the model's own device and dtype.

    A new row takes the longest prefix that another row or the prefix cache holds, prefills all
    but its last token, and then joins the others, which advance one token per step. What a
    request samples depends on its context and seed alone, up to floating-point noise.

    Running rows need max_batch x longest context x (bytes of one token's keys and values).

    Args:
        model: a causal language model with full attention in all layers. It may be shared with a
            learner: between steps it is as it was.
        tokenizer: of the model; ids beyond its vocabulary are never sampled.
        max_batch: most requests that run at a time; the rest wait in order.
        cache_bytes: bound on the memory of finished rows kept for later turns and forks.
        keep_entropies: whether completions carry the entropies of whole distributions too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch: int = 256,
        cache_bytes: int = 1 << 30,
        keep_entropies: bool = False,
    ) -> None:
        if not _has_full_attention(model.config):
            raise UnsupportedModelError(
                f"expected full attention in every layer, found {type(model).__name__} with "
                "sliding-window or linear layers; take a model without them"
            )
        self.model = model
        self.stats = EngineStats()
        self._decodable = decodable(model)
        self._max_batch = max_batch
        self._entropies = keep_entropies
        self.max_length: int = model.config.max_position_embeddings
        self._vocabulary = Vocabulary(model, tokenizer)
        self._holes = torch.from_numpy(self._vocabulary.holes)
        self._eos = np.zeros(self._vocabulary.size, dtype=np.bool_)
        self._eos[self._vocabulary.ends] = True
        self._stop = self._vocabulary.stop
        self._parked = PrefixCache(cache_bytes)
        self.close()

    def close(self) -> None:
        """Drop all requests and free the key/value memory."""
        self._waiting: deque[Request] = deque()
        self._keys: set[Hashable] = set()
        self._rows = BatchState(self._max_batch)
        self._cache = RowCache(self.model.config, self.model.dtype, self.model.device)
        self._parked.clear()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; they start at the next steps, in order, as room allows.

        Raises:
            RequestError: a request cannot be served exactly as asked; none of them is queued.
        """
        self._keys |= check_requests(
            requests, self._keys, max_length=self.max_length, vocabulary=self._vocabulary.rows
        )
        self._waiting.extend(requests)

    def step(self) -> list[Completion]:
        """Start waiting requests, advance every running one by one token, return the finished."""
        with _serving(self.model):
            self._admit()
            rows = self._rows
            n = len(rows)
            if n == 0:
                return []
            position = rows.stored[:n, None]
            newest = rows.ids[np.arange(n)[:, None], position]
            tokens = self._sample(self._forward(slice(0, n), newest, position))
            return self._finish(tokens)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Copy new weights into the model and forget every stored key and value.

        Args:
            state: the model's whole state, or at least the tensors of its adapter; tied weights
                may be given once. A tensor that already is the model's own memory is left as it is.

        Raises:
            EngineBusyError: requests run or wait.
            WeightsError: names or shapes do not match the model.
        """
        check_idle(self._keys)
        copy_weights(self.model, state)
        self._parked.clear()

    def sleep(self) -> None:
        """Forget finished rows; the memory of running ones is kept, since the next step needs it.

        Raises:
            EngineBusyError: requests run or wait.
        """
        check_idle(self._keys)
        self._parked.clear()

    def _admit(self) -> None:
        """Give rows to waiting requests and prefill them, shared prefixes first and once."""
        room = self._max_batch - len(self._rows)
        pending = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        if pending:
            longest = max(len(request.ids) for request in pending)
            self._cache.reserve(len(self._rows) + len(pending), longest)
        while pending:
            first = len(self._rows)
            others = len(pending)
            pending = [request for request in pending if not self._place(request, others)]
            self._prefill(first, len(self._rows))

    def _place(self, request: Request, others: int) -> bool:
        """Start a row with the longest stored prefix; False to wait for a neighbour's prefill."""
        rows = self._rows
        ids = np.asarray(request.ids, dtype=np.int64)
        row, useful = len(rows), len(ids) - 1  # the last token always runs, for its logits
        held, kv = self._parked.longest(ids)
        source, running, soon = 0, 0, 0
        if row:
            shared = common_prefix(rows.ids[:row], rows.known[:row], ids)
            now = np.minimum(shared, rows.stored[:row])
            source, running, soon = int(now.argmax()), int(now.max()), int(shared.max())
        reused = min(max(held, running), useful)
        if (min(soon, useful) - reused) * others >= _WORTH_WAITING:
            return False
        if reused:
            found = kv if kv is not None and held >= running else self._cache.row(source, reused)
            self._cache.row(row, reused).copy_(found[..., :reused, :])
        rows.add(request, ids, reused, self._stop.number(request.stop))
        self.stats.reused += reused
        self.stats.prefilled += len(ids) - reused
        return True

    def _prefill(self, start: int, stop: int) -> None:
        """Store keys and values of rows start..stop-1 up to, but without, their last token."""
        todo = self._rows.known[:stop] - 1 - self._rows.stored[:stop]
        while start < stop:
            end, longest, useful = start, 0, 0
            while end < stop:
                width = max(longest, int(todo[end]))
                padded = width * (end + 1 - start)
                useful += int(todo[end])
                if end > start and (padded > _PREFILL_TOKENS or padded > 2 * useful + 64):
                    break
                end, longest = end + 1, width
            self._prefill_block(slice(start, end), longest)
            start = end

    def _prefill_block(self, block: slice, longest: int) -> None:
        """Run neighbouring rows together, `longest` tokens each in chunks of bounded size.

        Shorter rows are padded with their last token; what the padding stores is hidden by the
        mask until real tokens overwrite it.
        """
        rows = self._rows
        end = rows.known[block, None] - 1
        chunk = max(1, _PREFILL_TOKENS // (block.stop - block.start))
        for offset in range(0, longest, chunk):
            steps = np.arange(offset, min(offset + chunk, longest))
            positions = rows.stored[block, None] + steps
            columns = np.minimum(positions, end)
            ids = rows.ids[np.arange(block.start, block.stop)[:, None], columns]
            self._forward(block, ids, positions)
        rows.stored[block] = end[:, 0]

    def _forward(self, rows: slice, ids: NDArray[np.int64], where: NDArray[np.int64]) -> Tensor:
        """Run [rows, new] tokens at their positions; return the last ones' logits [rows, vocab]."""
        device = self.model.device
        length = int(where.max()) + 1
        positions = torch.from_numpy(where).to(device)
        self._cache.reserve(rows.stop, length)
        self._cache.select(rows, positions, length)
        hidden = torch.arange(length, device=device) > positions[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=device)
        mask = mask.masked_fill_(hidden, -torch.inf)[:, None]
        tokens = torch.from_numpy(ids).to(device)
        if self._decodable is not None and ids.shape[1] == 1:
            return decode(self._decodable, self._cache, tokens[:, 0], positions[:, 0], mask)
        out = self.model(
            input_ids=tokens,
            position_ids=positions.clamp(max=self.max_length - 1),
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _sample(self, logits: Tensor) -> NDArray[np.int64]:
        """Append one sampled token and its logprob to every running row; return the tokens."""
        rows, n = self._rows, len(self._rows)
        logits = logits[:, : self._vocabulary.size]
        if len(self._holes):
            logits = logits.index_fill(1, self._holes.to(logits.device), -torch.inf)
        u = uniforms(rows.seed[:n], rows.known[:n] - rows.prompt[:n])
        sampled, logprobs = sample(logits, rows.temperature[:n], u)
        tokens: NDArray[np.int64] = sampled.cpu().numpy()
        measured = entropies(logits, rows.temperature[:n]).cpu().numpy() if self._entropies else 0.0
        rows.append(tokens, logprobs.cpu().numpy(), measured)
        self.stats.sampled += n
        return tokens

    def _finish(self, tokens: NDArray[np.int64]) -> list[Completion]:
        """Return the rows whose turn ended with their last token, and free them."""
        rows, n = self._rows, len(self._rows)
        eos = self._eos[tokens]
        full = rows.known[:n] >= rows.limit[:n]
        candidate = self._stop.candidates(rows.stop[:n], tokens)
        completions = []
        # Backwards, because the last row moves into the place of a removed one.
        for row in np.flatnonzero(eos | full | candidate)[::-1].tolist():
            request, span = rows.requests[row], slice(rows.prompt[row], rows.known[row])
            ids = rows.ids[row, span].tolist()
            text = self._stop.text(ids)
            finish: Literal["stop", "eos", "length"]
            if eos[row]:
                finish = "eos"
            elif candidate[row] and any(string in text for string in request.stop):
                finish = "stop"
            elif full[row]:
                finish = "length"
            else:
                continue
            logprobs = rows.logprobs[row, span].tolist()
            measured = rows.entropies[row, span].tolist() if self._entropies else []
            completions.append(Completion(request.key, ids, logprobs, text, finish, measured))
            self._remove(row)
        return completions[::-1]

    def _remove(self, row: int) -> None:
        """Park a finished row in the prefix cache and move the last row into its place."""
        rows, last = self._rows, len(self._rows) - 1
        self._keys.discard(rows.requests[row].key)
        stored, moved = int(rows.stored[row]), int(rows.stored[last])
        self._parked.add(rows.ids[row, :stored], self._cache.row(row, stored))
        if row != last:
            self._cache.row(row, moved).copy_(self._cache.row(last, moved))
        rows.remove(row)


@contextmanager
def _serving(model: PreTrainedModel) -> Iterator[None]:
    """Switch the model to evaluation with row attention, and back afterwards."""
    training, attention = model.training, model.config._attn_implementation
    if training:
        model.train(False)
    model.config._attn_implementation = ATTENTION
    try:
        with torch.inference_mode():
            yield
    finally:
        model.config._attn_implementation = attention
        if training:
            model.train()


def _has_full_attention(config: PretrainedConfig) -> bool:
    kinds = optional(config, "layer_types")
    if kinds is None:
        return optional(config, "sliding_window") is None
    return set(kinds) == {"full_attention"}
