"""Log-probabilities of sampled tokens under a model: packed trees, and plain rows as reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch's own documentation uses
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from at2po_agents.learner.packing import Pack
from at2po_agents.learner.tree_attention import check_model, tree_attention
from at2po_agents.tree import Row

#: Logits held in memory at once (64 MiB in fp32); larger packs recompute them chunk by chunk.
LOGITS_AT_ONCE = 2**24


def token_logprobs(
    model: PreTrainedModel,
    pack: Pack,
    *,
    temperature: float = 1.0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Return the log-probability of every unique sampled token given its path.

    Args:
        model: A decoder with a language-model head, rotary or other explicit positions.
        pack: Packed trees, on the model's device.
        temperature: Divides the logits, above 0.
        logits_at_once: Largest number of logits held in memory; the head runs in chunks of that
            size, each recomputed in the backward pass if there are several.

    Returns:
        [S] in float32 (float64 for a float64 model), differentiable.

    Raises:
        UnsupportedModelError: If the model scales its logits or attends in windows.
    """
    check_model(model)
    with tree_attention(model):
        hidden = model.base_model(
            input_ids=pack.ids, position_ids=pack.positions, use_cache=False, tree=pack.pattern
        ).last_hidden_state[0]
    hidden = hidden.index_select(0, pack.predictors)
    return _score(model, hidden, pack.targets, temperature, logits_at_once)


def flat_logprobs(
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    temperature: float = 1.0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> list[Tensor]:
    """Score rows as sequences of their own under the model's own attention: the reference.

    Args:
        model: A causal language model.
        rows: Rows of any trees, at least one; all of them go through the model in one batch.
        temperature: Divides the logits, above 0.
        logits_at_once: As for `token_logprobs`.

    Returns:
        One tensor per row, differentiable: the log-probabilities of its sampled tokens.
    """
    # On the right, where no token that counts can see it, padding needs no mask.
    ids, sampled = (
        pad_sequence([torch.tensor(part) for part in parts], batch_first=True).to(model.device)
        for parts in ([row.ids for row in rows], [row.sampled for row in rows])
    )
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    hidden = hidden.flatten(0, 1).index_select(0, sampled.flatten().nonzero()[:, 0] - 1)
    scores = _score(model, hidden, ids[sampled], temperature, logits_at_once)
    return list(scores.split(sampled.sum(1).tolist()))


def _score(
    model: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float, at_once: int
) -> Tensor:
    """Return the log-probabilities of targets [S], given the hidden states [S, D] before them."""
    head = model.get_output_embeddings()
    size = max(1, at_once // head.weight.shape[0])
    if len(hidden) <= size:
        return _head_logprobs(head, hidden, targets, temperature)
    parts = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    return torch.cat(
        [
            checkpoint(_head_logprobs, head, part, some, temperature, use_reentrant=False)
            for part, some in parts
        ]
    )


def _head_logprobs(head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logits = _wide(head(hidden))
    if temperature != 1.0:
        logits = logits / temperature
    return -F.cross_entropy(logits, targets, reduction="none")


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
