"""A vLLM server as a generation engine: the same tokens in and out, over HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx2
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines.base import Completion, EngineStats, Request, check_idle
from at2po_agents.engines.turns import Turn, Vocabulary
from at2po_agents.engines.vllm.requests import check_sampled, sampling
from at2po_agents.errors import EngineServerError
from at2po_agents.policy.adapters import Adapter, base_state, find_adapter
from at2po_agents.policy.weights import StateLayout

Json = Any
"""What the server answers, which only vLLM describes."""

# Added to the logits of ids that must not be sampled; vLLM clips larger ones. A reply that holds
# such an id all the same is refused.
_NEVER = -100.0


class VLLMServerEngine:
    """Engine that asks a running `vllm serve`, every request on a connection of its own.

    Start the server on a folder with the same architecture and tokenizer:
    `VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --enable-scale-out --enable-prompt-tokens-details
    --logprobs-mode processed_logprobs`. Its development mode has the routes that change weights:
    let nobody else reach it.

    New weights go through a folder that both processes see. The server does not sleep: it has a
    device of its own. Of a model with an adapter a server that was started with `--enable-lora
    --max-lora-rank RANK` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1` gets the weights once and then
    adapters only, which it applies itself; any other gets merged weights.

    Args:
        model: gives the architecture and the starting weights; not kept.
        tokenizer: of the model; ids beyond its vocabulary are never sampled.
        url: address of the server, such as `http://127.0.0.1:8000`.
        max_batch: most requests on their way at a time; the rest wait in order.
        exchange: folder for weights on their way to the server; by default the system's folder for
            temporary files.
        timeout_s: longest wait for one reply, > 0.

    Raises:
        EngineServerError: the server cannot be reached, or is set up otherwise.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        url: str,
        max_batch: int = 256,
        exchange: str | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        self.stats = EngineStats()
        self._layout = StateLayout(model)
        self._config = model.config
        self._adapter = find_adapter(model)
        self._served = ""  # name of the adapter that the server applies
        self._vocabulary = Vocabulary(model, tokenizer)
        self._bias = {str(token): _NEVER for token in self._vocabulary.impossible()}
        self._exchange = exchange
        self._url = url.rstrip("/")
        self._http = httpx2.Client(
            base_url=self._url,
            timeout=httpx2.Timeout(timeout_s, connect=5.0),
            trust_env=False,
            limits=httpx2.Limits(max_connections=None),
        )
        self._threads = ThreadPoolExecutor(max_batch)
        self._running: dict[Future[object], Request] = {}
        settings = self._settings()
        self.max_length: int = settings["model_config"]["max_model_len"]
        self._lora = bool(self._adapter and settings["lora_config"])
        if self._lora:
            self._reload_weights(base_state(model.state_dict()))
        self.load_weights(model.state_dict())

    def close(self) -> None:
        """Drop all requests; the server keeps running."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._running.clear()
        self._http.close()

    def submit(self, requests: Sequence[Request]) -> None:
        """Send requests, as many at a time as allowed.

        Raises:
            RequestError: a request cannot be served exactly as asked; none of them is sent.
        """
        unfinished = {request.key for request in self._running.values()}
        check_sampled(
            requests, unfinished, max_length=self.max_length, vocabulary=self._vocabulary.rows
        )
        for request in requests:
            body = {
                "token_ids": list(request.ids),
                "sampling_params": {
                    **sampling(request, self._vocabulary),
                    "stop": list(request.stop),
                    "logit_bias": self._bias,
                },
            }
            if self._served:
                body["model"] = self._served
            reply = self._threads.submit(self._send, "POST", "/inference/v1/generate", body)
            self._running[reply] = request

    def step(self) -> list[Completion]:
        """Wait until at least one request has finished and return those that have.

        Raises:
            EngineServerError: the server refused a request, or its reply is no answer to it.
        """
        if not self._running:
            return []
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [self._completion(self._running.pop(reply), reply.result()) for reply in finished]

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Have the server replace its weights and forget every stored key and value.

        Args:
            state: the model's whole state under the names of transformers; tied weights may be
                given once. Of a model with an adapter its tensors are enough for a server that
                applies adapters.

        Raises:
            EngineBusyError: requests are on their way.
            EngineServerError: the server does not take the weights.
            WeightsError: names or shapes do not match the model.
        """
        check_idle(self._running)
        given = self._layout.complete(state)
        if self._adapter and self._lora:
            self._serve(self._adapter, given)
        else:
            self._reload_weights(dict(self._adapter.merged(given)) if self._adapter else given)
        if not self._send("POST", "/reset_prefix_cache").get("success"):
            raise EngineServerError(
                f"expected {self._url} to forget its prefixes, found them in use; "
                "let nobody else use the server"
            )

    def _reload_weights(self, state: Mapping[str, Tensor]) -> None:
        """Have the server replace all weights of a model without adapter."""
        # Copies, because a file cannot hold one memory under the two names of tied weights.
        weights = {name: tensor.detach().clone() for name, tensor in state.items()}
        with tempfile.TemporaryDirectory(dir=self._exchange) as folder:
            self._config.save_pretrained(folder)
            save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
            body = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
            self._send("POST", "/collective_rpc", body)

    def _serve(self, adapter: Adapter, state: Mapping[str, Tensor]) -> None:
        """Have the server read a new adapter, and forget the name of the last one."""
        with tempfile.TemporaryDirectory(dir=self._exchange) as folder:
            adapter.save(state, Path(folder))
            name = Path(folder).name  # no other adapter of the server is called that
            self._send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        if self._served:
            self._send("POST", "/v1/unload_lora_adapter", {"lora_name": self._served})
        self._served = name

    def sleep(self) -> None:
        """Do nothing: the server's memory is not the learner's.

        Raises:
            EngineBusyError: requests are on their way.
        """
        check_idle(self._running)

    def _settings(self) -> Json:
        """Check the server's settings and return them."""
        config = self._send("GET", "/server_info?config_format=json")["vllm_config"]
        mode = config["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise EngineServerError(
                f"expected {self._url} to give processed_logprobs, found {mode}; start "
                "it with --logprobs-mode processed_logprobs"
            )
        return config

    def _completion(self, request: Request, reply: Json) -> Completion:
        """Read the tokens of a reply; what follows the end of the turn is dropped."""
        choice, turn = reply["choices"][0], Turn(request, self._vocabulary)
        details = (reply.get("usage") or {}).get("prompt_tokens_details") or {}
        reused = details.get("cached_tokens") or 0
        self.stats.reused += reused
        self.stats.prefilled += len(request.ids) - reused
        for token in choice["logprobs"]["content"]:
            self.stats.sampled += 1
            if str(token["token_id"]) in self._bias:
                break
            if completion := turn.add(token["token_id"], token["logprob"]):
                return completion
        raise EngineServerError(
            f"request {request.key!r}: expected a whole turn of ids that can be sampled, found it "
            f"ended after {len(turn.ids)} tokens ({choice['finish_reason']}); does the server have "
            "the same tokenizer?"
        )

    def _send(self, method: str, path: str, body: object = None) -> Json:
        where = f"{method} {self._url}{path}"
        try:
            reply = self._http.request(method, path, json=body)
        except httpx2.TransportError as error:
            raise EngineServerError(
                f"expected {where} to answer, found {type(error).__name__}: {error}; start "
                "`vllm serve`, or check the address"
            ) from error
        if reply.status_code == 404:
            raise EngineServerError(
                f"expected {where}, found no such page; start `vllm serve` with "
                "VLLM_SERVER_DEV_MODE=1 (and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 for adapters)"
            )
        if reply.status_code != 200:
            raise EngineServerError(
                f"expected {where} to succeed, found {reply.status_code}: {reply.text[:500]}"
            )
        # Loading an adapter is answered in words.
        return reply.json() if "json" in reply.headers.get("content-type", "") else {}
