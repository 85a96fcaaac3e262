"""Requests in vLLM's terms, the same for vLLM in this process and behind HTTP."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

from at2po_agents.engines.base import Request, check_requests
from at2po_agents.engines.turns import Vocabulary
from at2po_agents.errors import RequestError

TEMPERATURES = (0.01, 2.0)
"""vLLM would raise a lower temperature by itself, 0 (greedy) apart, and refuses a higher one.

Source: vLLM 0.32, `sampling_params`.
"""

_SEEDS = 2**63 - 1  # vLLM's are signed, and -1 stands for none


def check_sampled(
    requests: Sequence[Request],
    unfinished: Collection[Hashable],
    *,
    max_length: int,
    vocabulary: int,
) -> None:
    """Refuse requests if vLLM cannot serve one of them exactly as asked.

    Args:
        requests: the requests to check.
        unfinished: keys of the requests that run or wait.
        max_length: most positions the model has.
        vocabulary: ids run from 0 to this number, exclusive.

    Raises:
        RequestError: one of them cannot.
    """
    check_requests(requests, unfinished, max_length=max_length, vocabulary=vocabulary)
    low, high = TEMPERATURES
    for request in requests:
        if request.temperature and not low <= request.temperature <= high:
            raise RequestError(
                f"request {request.key!r}: expected temperature 0 (greedy) or {low} to {high}, "
                f"found {request.temperature}; vLLM samples at no other"
            )


def sampling(request: Request, vocabulary: Vocabulary) -> dict[str, object]:
    """Return the fields of vLLM's `SamplingParams` for a request, stop strings left out.

    End tokens are named here, so that they do not depend on files that vLLM reads. `logprobs` 0
    asks for the sampled token's alone.
    """
    return {
        "temperature": request.temperature,
        "seed": request.seed % _SEEDS,
        "max_tokens": request.max_new_tokens,
        "logprobs": 0,
        "ignore_eos": True,
        "stop_token_ids": vocabulary.ends,
    }
