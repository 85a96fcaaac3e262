"""Adapters that vLLM applies itself, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from vllm.lora.request import LoRARequest
from vllm.v1.engine.llm_engine import LLMEngine

from at2po_agents.policy.adapters import Adapter

# What vLLM 0.32 takes for `max_lora_rank`; an adapter of another rank gets the next room of them.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def lora_settings(adapter: Adapter) -> dict[str, object]:
    """Return the fields of `vllm.EngineArgs` that make room for one adapter."""
    room = next((rank for rank in _RANKS if rank >= adapter.rank), adapter.rank)
    return {"enable_lora": True, "max_lora_rank": room}


class ServedAdapter:
    """The adapter that vLLM applies.

    Args:
        adapter: its rank and scale.

    Attributes:
        request: names it to vLLM; None before the first.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.request: LoRARequest | None = None

    def load(self, llm: LLMEngine, state: Mapping[str, Tensor]) -> None:
        """Have vLLM read a new adapter, which takes the last one's place.

        Args:
            llm: where it is applied.
            state: a state of the adapted model, with the adapter's tensors at least.
        """
        number = self.request.lora_int_id + 1 if self.request else 1
        with tempfile.TemporaryDirectory() as folder:  # vLLM 0.32 takes adapters from files only
            self._adapter.save(state, Path(folder))
            self.request = LoRARequest(f"adapter {number}", number, folder)
            llm.add_lora(self.request)
