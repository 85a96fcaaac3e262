"""vLLM in this process, beside the learner that hands it new weights."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from vllm import EngineArgs, RequestOutput, SamplingParams
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

from at2po_agents.engines.base import Completion, EngineStats, Request, check_idle
from at2po_agents.engines.turns import Turn, Vocabulary
from at2po_agents.engines.vllm.lora import ServedAdapter, lora_settings
from at2po_agents.engines.vllm.requests import check_sampled, sampling
from at2po_agents.errors import (
    ConfigError,
    EngineBusyError,
    EngineUnavailableError,
    RequestError,
)
from at2po_agents.policy.adapters import base_state, find_adapter
from at2po_agents.policy.weights import StateLayout

OPTIONS = frozenset(field.name for field in fields(EngineArgs)) - {"model", "max_num_seqs"}
"""Fields of `vllm.EngineArgs` that the engine passes on."""

# The smallest block that vLLM's attention on a CPU takes. A prefix is reused in whole blocks.
_CPU_BLOCK = 32


class VLLMEngine:
    """Engine that runs vLLM, with prefix caching, in this process.

    What a request samples depends on its context and seed alone, up to floating-point noise.
    A process can have one such engine at a time; close it before making the next.

    Asleep, the engine holds neither weights nor keys and values on a GPU; on a CPU vLLM cannot
    give them back, and only the prefix cache is forgotten. A closed engine cannot be used again.

    Of a model with an adapter vLLM gets the weights once and then adapters only, which it applies
    itself; asleep, those weights wait in the CPU's memory. With `enable_lora=False` it gets merged
    weights instead.

    Args:
        model: gives the architecture, the number format and the starting weights; not kept.
        tokenizer: of the model; ids beyond its vocabulary are never sampled.
        max_batch: most requests that run at a time; the rest wait in order.
        cache_bytes: memory for keys and values, both of running requests and of prefixes kept;
            one request of `max_length` tokens must fit.
        **options: further fields of `vllm.EngineArgs`, such as `max_model_len`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch: int = 256,
        cache_bytes: int = 1 << 30,
        **options: object,
    ) -> None:
        self.stats = EngineStats()
        self._layout = StateLayout(model)
        self._vocabulary = Vocabulary(model, tokenizer)
        self._turns: dict[str, Turn] = {}
        self._submitted = 0
        self._asleep = False
        self._adapter = find_adapter(model)
        self._served: ServedAdapter | None = None
        room: dict[str, object] = {"max_num_seqs": max_batch, "kv_cache_memory_bytes": cache_bytes}
        if self._adapter and options.get("enable_lora", True):
            self._served = ServedAdapter(self._adapter)
            room |= lora_settings(self._adapter)
        self._llm = _start(model, room | options)
        self.max_length: int = self._llm.model_config.max_model_len
        if impossible := self._vocabulary.impossible():
            self._llm.apply_model(lambda served: _never_sample(served, impossible))
        if self._served:
            self._reload_weights(base_state(model.state_dict()))
        self.load_weights(model.state_dict())

    def close(self) -> None:
        """Drop all requests and end vLLM."""
        self._turns.clear()
        if self._llm is not None:
            self._llm.engine_core.shutdown()
            self._llm = None

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; they start at the next steps, in order, as room allows.

        Raises:
            RequestError: a request cannot be served exactly as asked; none of them is queued.
            EngineUnavailableError: the engine sleeps or was closed.
        """
        if self._asleep:
            raise EngineUnavailableError(
                "expected an engine that is awake, found it asleep; load the weights to wake it"
            )
        self._check_open()
        unfinished = {turn.request.key for turn in self._turns.values()}
        check_sampled(
            requests, unfinished, max_length=self.max_length, vocabulary=self._vocabulary.rows
        )
        for request in requests:
            name = str(self._submitted)
            self._submitted += 1
            # Stop strings are found here, as whole tokens: vLLM neither decodes nor encodes.
            params = SamplingParams(
                **sampling(request, self._vocabulary),
                detokenize=False,
                flat_logprobs=True,
                output_kind=RequestOutputKind.DELTA,
            )
            ids = tokens_input(list(request.ids))
            lora = self._served.request if self._served else None
            self._llm.add_request(name, ids, params, lora_request=lora)
            self._turns[name] = Turn(request, self._vocabulary)

    def step(self) -> list[Completion]:
        """Advance the requests as vLLM schedules them and return those that finished."""
        if not self._turns:
            return []
        completions, stopped = [], []
        for output in self._llm.step():
            if completion := self._read(output):
                completions.append(completion)
                del self._turns[output.request_id]
                if not output.finished:
                    stopped.append(output.request_id)
        self._llm.abort_request(stopped)
        return completions

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Replace the weights, forget every stored key and value, and wake up.

        Args:
            state: the model's whole state under the names of transformers; tied weights may be
                given once. Of a model with an adapter its tensors are enough, unless merged weights
                are wanted.

        Raises:
            EngineBusyError: requests run or wait.
            EngineUnavailableError: the engine was closed.
            WeightsError: names or shapes do not match the model.
        """
        check_idle(self._turns)
        self._check_open()
        given = self._layout.complete(state)
        if self._asleep:
            self._llm.wake_up(["weights"])
        if self._served:
            self._served.load(self._llm, given)
        else:
            self._reload_weights(dict(self._adapter.merged(given)) if self._adapter else given)
        if self._asleep:
            self._llm.wake_up(["kv_cache"])
            self._asleep = False
        if not self._llm.reset_prefix_cache():
            raise EngineBusyError(
                "expected vLLM to forget its prefixes, found them in use; make a new engine"
            )

    def _reload_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace all weights of a model without adapter."""
        # vLLM fuses and packs weights; only its own reloading does all of that again, and on a CPU
        # it does so for a tied output layer only if the state names that, too.
        given = {"weights_iterator": list(weights.items())}
        self._llm.collective_rpc("reload_weights", kwargs=given)

    def sleep(self) -> None:
        """Give back weights, keys and values until `load_weights`.

        Raises:
            EngineBusyError: requests run or wait.
            EngineUnavailableError: the engine was closed.
        """
        check_idle(self._turns)
        self._check_open()
        if not self._asleep:
            # Level 2 would drop the weights, which do not come again beside an adapter.
            self._llm.sleep(level=1 if self._served else 2)
            self._asleep = True

    def _check_open(self) -> None:
        if self._llm is None:
            raise EngineUnavailableError(
                "expected a running engine, found it closed; make a new one"
            )

    def _read(self, output: RequestOutput) -> Completion | None:
        """Take the new tokens of a request; what follows the end of its turn is dropped."""
        turn, new = self._turns[output.request_id], output.outputs[0]
        if not turn.ids and new.token_ids:
            self.stats.reused += output.num_cached_tokens
            self.stats.prefilled += len(turn.request.ids) - output.num_cached_tokens
        for token, logprob in zip(new.token_ids, new.logprobs.logprobs, strict=True):
            self.stats.sampled += 1
            if completion := turn.add(token, logprob):
                return completion
        if output.finished:
            raise RequestError(
                f"request {turn.request.key!r}: expected vLLM to continue, found it ended after "
                f"{len(turn.ids)} tokens ({new.finish_reason}); see vLLM's log"
            )
        return None


def _start(model: PreTrainedModel, options: Mapping[str, object]) -> LLMEngine:
    """Start vLLM in this process with a model's configuration and meaningless weights."""
    settings: dict[str, object] = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "enable_sleep_mode": current_platform.is_sleep_mode_available(),
        # Scheduling ahead would sample a token for nothing behind every stop string.
        "async_scheduling": False,
        "disable_log_stats": True,
    }
    if current_platform.is_cpu():
        # Compiling would take longer than it saves, and needs a C++ compiler.
        settings |= {"block_size": _CPU_BLOCK, "enforce_eager": True}
        # A request of its own seed whose prompt is taken in parts ends vLLM 0.32 on a CPU.
        settings["enable_chunked_prefill"] = False
    if dist.is_initialized() and dist.get_world_size() > 1:
        # A rank of torchrun: vLLM joins its group, and takes the GPU that LOCAL_RANK says.
        settings["distributed_executor_backend"] = "external_launcher"
        _check_alone(options)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        described = copy.deepcopy(model.config)
        described.architectures = [type(model).__name__]
        described.save_pretrained(folder)
        config = EngineArgs(model=folder, **(settings | dict(options))).create_engine_config()
        return LLMEngine(config, Executor.get_class(config), log_stats=False)


def _check_alone(options: Mapping[str, object]) -> None:
    """Refuse an engine that is spread over ranks: each of them has questions of its own."""
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if options.get(name, 1) != 1:
            raise ConfigError(
                f"engine.options: expected an engine of one GPU in each rank of torchrun, found "
                f"{name}={options[name]}; set it to 1, or start a server and give its url"
            )


def _never_sample(model: nn.Module, ids: Sequence[int]) -> None:
    """Make ids impossible where logits leave the model: once a step, whatever the requests."""
    compute = cast("Callable[..., Tensor | None]", model.compute_logits)

    def masked(*args: object, **kwargs: object) -> Tensor | None:
        logits = compute(*args, **kwargs)
        if logits is not None:  # other ranks of a model that is spread out have none
            logits[:, torch.tensor(ids, device=logits.device)] = -torch.inf
        return logits

    model.compute_logits = masked  # type: ignore[assignment]
