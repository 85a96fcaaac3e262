"""The engines by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from at2po_agents.engines.base import Engine
from at2po_agents.errors import ConfigError
from at2po_agents.settings import COUNT_OF_BYTES, SECONDS, check_url
from retrieval.errors import nearest
from retrieval.extras import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EngineName = Literal["transformers", "vllm"]

_Kind = type | tuple[type, ...]
_OURS: dict[str, _Kind] = {"cache_bytes": int}
_SERVER: dict[str, _Kind] = {"url": str, "exchange": str, "timeout_s": (int, float)}
_RANGES = {"cache_bytes": COUNT_OF_BYTES, "timeout_s": SECONDS}


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
        options: `cache_bytes`, and for vLLM the fields of `vllm.EngineArgs`; or, for a vLLM server,
            its `url`, and `exchange` and `timeout_s` of `VLLMServerEngine`.
        keep_entropies: whether completions carry the entropies of whole distributions.

    Raises:
        ConfigError: there is no such option, vLLM is not installed, or it cannot do what is asked.
    """
    if name == "transformers":
        from at2po_agents.engines.transformers.engine import TransformersEngine

        _check_options(options, _OURS)
        return TransformersEngine(
            model, tokenizer, max_batch=max_batch, keep_entropies=keep_entropies, **options
        )
    if keep_entropies:
        raise ConfigError(
            'engine: expected "transformers" for entropies of whole distributions, found "vllm", '
            "which gives the logprobs of sampled tokens only; set the algorithm's entropy to "
            '"surprisal", or take the transformers engine'
        )
    if "url" in options:
        require("httpx2", 'engine "vllm" with a url', ConfigError)
        from at2po_agents.engines.vllm.server_client import VLLMServerEngine

        _check_options(options, _SERVER)
        return VLLMServerEngine(model, tokenizer, max_batch=max_batch, **options)
    require("vllm", 'engine "vllm"', ConfigError)
    from at2po_agents.engines.vllm.engine import OPTIONS, VLLMEngine

    _check_options(options, _OURS | dict.fromkeys(OPTIONS, object))
    return VLLMEngine(model, tokenizer, max_batch=max_batch, **options)


def _check_options(options: Mapping[str, object], known: Mapping[str, _Kind]) -> None:
    """Refuse options by other names, of other types than those known, or out of range."""
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"engine.options: expected options of this engine, found {option!r}; "
                + nearest(option, known)
            )
        kind, allowed = known[option], _RANGES.get(option)
        if kind is not object and (isinstance(value, bool) or not isinstance(value, kind)):
            wanted = "text" if kind is str else f"a number {allowed}"
            raise ConfigError(f"engine.options: {option}: expected {wanted}, found {value!r}")
        if allowed and isinstance(value, int | float) and value not in allowed:
            raise ConfigError(
                f"engine.options: {option}: expected a number {allowed}, found {value}"
            )
    if "url" in options:
        check_url("engine.options: url", str(options["url"]))
