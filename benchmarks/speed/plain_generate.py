"""The loop that most people write: `model.generate` once a round, for all turns that wait."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from at2po_agents.engines import Completion, EngineStats, Request
from at2po_agents.engines.stopping import StopStrings
from at2po_agents.policy.weights import copy_weights

Finish = Literal["stop", "eos", "length"]


class PlainEngine:
    """`model.generate` behind the protocol of an engine, so that the same collector drives it.

    A step is a whole round: all waiting turns in one left-padded batch, with a cache of keys and
    values within the round, until the last of them has stopped. Ids go in and come out, and nothing
    but ids is kept between rounds: every round computes its contexts again.

    Args:
        model: A causal language model.
        tokenizer: Of the model.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.stats = EngineStats()
        self.max_length: int = model.config.max_position_embeddings
        self._waiting: list[Request] = []
        self._strings = StopStrings(tokenizer, model.config.vocab_size)
        self._pad = int(tokenizer.pad_token_id or 0)
        eos = model.generation_config.eos_token_id
        self._ends = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None}

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests for the next round."""
        self._waiting += requests

    def step(self) -> list[Completion]:
        """Take one whole round, whose turns have the temperature and stop strings of the first."""
        batch, self._waiting = self._waiting, []
        if not batch:
            return []
        ids, mask = self._padded([request.ids for request in batch])
        turns = _Turns(self._strings, self._ends, batch, ids.shape[1])
        limit = max(request.max_new_tokens for request in batch)
        sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0} if batch[0].temperature else {}
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(batch[0].seed % 2**63)
            self.model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=limit,
                **({"do_sample": False} | sampling),
                **({"temperature": batch[0].temperature} if sampling else {}),
                eos_token_id=sorted(self._ends),
                pad_token_id=self._pad,
                logits_processor=LogitsProcessorList([turns.keep]),
                stopping_criteria=StoppingCriteriaList([turns]),
            )
        completions = []
        for row, logprobs in enumerate(torch.stack(turns.logprobs, 1).tolist()):
            request, (sampled, text, finish) = batch[row], turns.ended[row]
            self.stats.sampled += len(sampled)
            self.stats.prefilled += len(request.ids)
            logprobs = logprobs[: len(sampled)]
            completions.append(Completion(request.key, sampled, logprobs, text, finish))
        return completions

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Copy new weights into the model."""
        copy_weights(self.model, state)

    def sleep(self) -> None:
        """Hold nothing, as always between rounds."""

    def close(self) -> None:
        """Drop the waiting requests."""
        self._waiting = []

    def _padded(self, contexts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, contexts))
        ids = np.full((len(contexts), width), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, context in enumerate(contexts):
            ids[row, width - len(context) :] = context
            mask[row, width - len(context) :] = 1
        device = self.model.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


class _Turns(StoppingCriteria):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Ends rows at their stop strings and at their own limits; few rows are decoded a step.

    It also takes down the log-probability of every sampled token: keeping the logits of a round, as
    `output_logits` does, would cost more than the sampling.
    """

    def __init__(
        self, strings: StopStrings, ends: Collection[int], batch: Sequence[Request], width: int
    ) -> None:
        self.strings, self.ends, self.batch, self.width = strings, sorted(ends), batch, width
        self.numbers = np.array([strings.number(request.stop) for request in batch])
        self.limits = np.array([request.max_new_tokens for request in batch])
        self.done = np.zeros(len(batch), dtype=np.bool_)
        self.ended: dict[int, tuple[list[int], str, Finish]] = {}  # row -> its ids, text, and why
        self.heat = batch[0].temperature or 1.0
        self.logits: Any = None
        self.logprobs: list[Tensor] = []

    def keep(self, input_ids: Any, scores: Any) -> Any:
        """Remember the logits of this step, as a logits processor that changes nothing."""
        self.logits = scores
        return scores

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return [rows] which rows have ended."""
        sampled = input_ids[:, -1]
        self.logprobs.append(
            -torch.nn.functional.cross_entropy(
                self.logits.float() / self.heat, sampled, reduction="none"
            )
        )
        tokens = sampled.cpu().numpy()
        eos, marked = np.isin(tokens, self.ends), self.strings.candidates(self.numbers, tokens)
        full = input_ids.shape[1] - self.width >= self.limits
        for row in np.flatnonzero((eos | marked | full) & ~self.done).tolist():
            ids = input_ids[row, self.width :].tolist()
            text = self.strings.text(ids)
            stopped = marked[row] and any(string in text for string in self.batch[row].stop)
            if eos[row] or stopped or full[row]:
                why: Finish = "stop" if stopped else "length"
                self.ended[row] = (ids, text, "eos" if eos[row] else why)
        self.done[list(self.ended)] = True
        return torch.from_numpy(self.done.copy()).to(input_ids.device)
