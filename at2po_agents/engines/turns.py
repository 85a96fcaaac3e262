"""What a tokenizer and a model say about turns: which ids can be sampled and where a turn ends."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines.base import Completion, Request
from at2po_agents.engines.stopping import StopStrings
from at2po_agents.errors import NonFiniteLogitsError
from at2po_agents.policy.chat_template import ChatTemplateError, end_of_turn
from at2po_agents.policy.sizes import optional


class Vocabulary:
    """The ids that can be sampled, and those that end a turn.

    Args:
        model: its rows of the vocabulary may be more than the tokenizer has ids.
        tokenizer: of the model.

    Attributes:
        rows: ids that the model has a row for.
        size: sampled ids are below it.
        holes: sorted int64 ids below `size` that the tokenizer does not know.
        ends: sorted ids below `size` that the model or the tokenizer calls the end of a sequence,
            and the one with which the chat template ends a turn.
        stop: finds stop strings.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        known = np.unique(list(tokenizer.get_vocab().values()))
        self.rows: int = model.config.vocab_size
        self.size = min(int(known[-1]) + 1, self.rows)
        self.holes = np.setdiff1d(np.arange(self.size), known)
        self.ends = [t for t in _end_tokens(model, tokenizer) if 0 <= t < self.size]
        self.stop = StopStrings(tokenizer, self.size)

    def impossible(self) -> list[int]:
        """Return all ids that the model could give but that must never be sampled."""
        return [*self.holes.tolist(), *range(self.size, self.rows)]


class Turn:
    """Collects the tokens of one request until its turn is over.

    Args:
        request: the request.
        vocabulary: knows end tokens and stop strings.

    Attributes:
        ids: tokens so far.
    """

    def __init__(self, request: Request, vocabulary: Vocabulary) -> None:
        self.request = request
        self._vocabulary = vocabulary
        self.ids: list[int] = []
        self._logprobs: list[float] = []

    def add(self, token: int, logprob: float) -> Completion | None:
        """Take the next sampled token; return the completion if it ends the turn.

        Raises:
            NonFiniteLogitsError: the logprob is not finite, so there was no distribution.
        """
        if not math.isfinite(logprob):
            raise NonFiniteLogitsError(
                f"expected finite logits, found logprob {logprob} of a token sampled for request "
                f"{self.request.key!r}; check the weights last loaded (a diverged update is the "
                "usual cause)"
            )
        self.ids.append(token)
        self._logprobs.append(logprob)
        finish: Literal["stop", "eos", "length"]
        if token in self._vocabulary.ends:
            finish = "eos"
        elif self._stopped(token):
            finish = "stop"
        elif len(self.ids) == self.request.max_new_tokens:
            finish = "length"
        else:
            return None
        text = self._vocabulary.stop.text(self.ids)
        return Completion(self.request.key, self.ids, self._logprobs, text, finish)

    def _stopped(self, token: int) -> bool:
        stop, strings = self._vocabulary.stop, self.request.stop
        number = np.array([stop.number(strings)])
        if not stop.candidates(number, np.array([token]))[0]:
            return False
        text = stop.text(self.ids)
        return any(string in text for string in strings)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every id that the model, its tokenizer or its chat template ends a turn with."""
    declared: set[int | None] = set()
    for source in (model.generation_config, model.config, tokenizer):
        ends = optional(source, "eos_token_id")
        declared.update(ends if isinstance(ends, list) else [ends])
    if tokenizer.chat_template is not None:
        with suppress(ChatTemplateError):  # a dialect that needs the template will refuse it
            declared.add(end_of_turn(tokenizer))
    return sorted(token for token in declared if token is not None)
