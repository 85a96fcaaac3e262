"""Low-rank adapters (LoRA) inside a model: which tensors are theirs, and what they do to its own.

An adapted layer multiplies by W + scale B A, where W [out, in] stays as it is and only A [rank, in]
and B [out, rank] are trained. PEFT's layers hold W as `base_layer.weight`, and A and B as
`lora_A.default.weight` and `lora_B.default.weight`. Nothing here imports PEFT: an engine need not
have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from at2po_agents.errors import WeightsError

ADAPTER_FILE = "adapter_model.safetensors"
"""What PEFT and vLLM call the file of an adapter's tensors."""

_PREFIX = "base_model.model."  # of the names in that file


def adapter_names(names: Iterable[str]) -> list[str]:
    """Return those names of a model's state that belong to its adapter."""
    return [name for name in names if ".lora_A." in name or ".lora_B." in name]


def base_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's state without its adapter, under the names of a model that has none."""
    own = set(adapter_names(state))
    return {_plain(name): tensor for name, tensor in state.items() if name not in own}


def is_adapted_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer with an adapter."""
    return hasattr(module, "lora_A") and type(getattr(module, "base_layer", None)) is nn.Linear


class _AdaptedLayer(Protocol):
    """What is used of PEFT's layers."""

    def enable_adapters(self, enabled: bool) -> None: ...


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Let a model compute inside the block as if it had no adapter; one without stays as it is."""
    found = [module for module in model.modules() if hasattr(module, "lora_A")]
    layers = cast("list[_AdaptedLayer]", found)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class LoraSettings(Protocol):
    """What is read of PEFT's `LoraConfig`."""

    @property
    def r(self) -> int:
        """Rank."""
        ...

    @property
    def lora_alpha(self) -> float:
        """The rank times the scale."""
        ...

    def save_pretrained(self, save_directory: str) -> object:
        """Write `adapter_config.json`."""
        ...


@dataclass(frozen=True)
class Adapter:
    """An adapter without its tensors.

    Attributes:
        rank: Columns of B and rows of A, at least 1.
        scale: Factor on B A, above 0.
        settings: PEFT's `LoraConfig`.
    """

    rank: int
    scale: float
    settings: LoraSettings

    @classmethod
    def of(cls, settings: LoraSettings) -> Adapter:
        """Return what PEFT's settings describe."""
        return cls(settings.r, settings.lora_alpha / settings.r, settings)

    def merged(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights of the model without adapter that computes the same.

        Args:
            state: The whole state of the adapted model.

        Yields:
            Names of a model without adapter, and W + scale B A in W's dtype, rounded once.

        Raises:
            WeightsError: If a weight is missing that an adapter belongs to.

        Source: LoRA (arXiv 2106.09685), equation 3; scale is alpha / rank.
        """
        bases = {name.replace(".lora_A.default.", ".base_layer.") for name in _first(state)}
        if missing := sorted(bases - state.keys()):
            raise WeightsError(
                f"expected the weights that the adapter belongs to, found no {missing[:5]}; pass "
                "the full state dict, or let the engine take adapters"
            )
        for name, tensor in state.items():
            if name in bases:
                wide = torch.promote_types(tensor.dtype, torch.float32)
                a, b = (state[name.replace(".base_layer.", f".lora_{x}.default.")] for x in "AB")
                delta = self.scale * (b.to(wide) @ a.to(wide))
                yield _plain(name), (tensor.to(wide) + delta).to(tensor.dtype)
            elif not adapter_names([name]):
                yield _plain(name), tensor

    def save(self, state: Mapping[str, Tensor], folder: Path, **metadata: str) -> None:
        """Write the adapter alone, as PEFT and vLLM read it.

        Args:
            state: A state of the adapted model; only the adapter's tensors are taken.
            folder: Where `adapter_config.json` and `adapter_model.safetensors` are put.
            **metadata: Text that the latter carries.
        """
        tensors = {file_name(name): state[name].detach().cpu() for name in adapter_names(state)}
        self.settings.save_pretrained(str(folder))
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt", **metadata})


def find_adapter(model: PreTrainedModel) -> Adapter | None:
    """Return the adapter that was put into a model, or None for a model without."""
    settings = vars(model).get("peft_config", {}).get("default")
    return None if settings is None else Adapter.of(settings)


def file_name(name: str) -> str:
    """Return the name that one of an adapter's tensors has in its file."""
    return _PREFIX + name.replace(".default.", ".")


def _first(state: Mapping[str, Tensor]) -> list[str]:
    return [name for name in adapter_names(state) if ".lora_A." in name]


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")
