"""The engines by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines.base import Engine
from at2po_agents.engines.transformers_engine import TransformersEngine
from at2po_agents.errors import ConfigError
from at2po_agents.settings import nearest

EngineName = Literal["transformers", "vllm"]


def make_engine(
    name: EngineName,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_batch: int,
    options: Mapping[str, Any] = MappingProxyType({}),
    keep_entropies: bool = False,
) -> Engine:
    """Make a generation engine.

    Args:
        name: which one.
        model: what generates; vLLM takes a copy of its weights.
        tokenizer: of the model.
        max_batch: most requests that run at a time.
        options: `cache_bytes`, and for vLLM the fields of `vllm.EngineArgs`.
        keep_entropies: whether completions carry the entropies of whole distributions.

    Raises:
        ConfigError: there is no such option, vLLM is not installed, or it cannot do what is asked.
    """
    if name == "transformers":
        _check_options(options, {"cache_bytes"})
        return TransformersEngine(
            model, tokenizer, max_batch=max_batch, keep_entropies=keep_entropies, **options
        )
    if keep_entropies:
        raise ConfigError(
            'engine: expected "transformers" for entropies of whole distributions, found "vllm", '
            "which gives the logprobs of sampled tokens only; set the algorithm's entropy to "
            '"surprisal", or take the transformers engine'
        )
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            'engine: expected the package vllm for "vllm", found none; '
            "run: pip install 'at2po[vllm]'"
        )
    from at2po_agents.engines.vllm_engine import OPTIONS, VLLMEngine

    _check_options(options, {"cache_bytes"} | OPTIONS)
    return VLLMEngine(model, tokenizer, max_batch=max_batch, **options)


def _check_options(options: Mapping[str, Any], known: Collection[str]) -> None:
    for option in options:
        if option not in known:
            raise ConfigError(
                f"engine_options: expected options of this engine, found {option!r}"
                + nearest(option, known)
            )
