"""Training a low-rank adapter (LoRA) in place of all weights, with PEFT's layers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from at2po_agents.errors import ConfigError, WeightsError
from at2po_agents.policy.adapters import (
    ADAPTER_FILE,
    Adapter,
    adapter_names,
    file_name,
    is_adapted_linear,
)
from at2po_agents.policy.lora_options import LoraOptions
from at2po_agents.policy.weights import copy_weights, state_hash
from retrieval.extras import require

__all__ = ["ADAPTER_FOLDER", "Lora", "LoraOptions"]

ADAPTER_FOLDER = "adapter"
"""Folder of the adapter inside a checkpoint, whose other files are a model without one."""


class Lora:
    """The adapter in a model under training, and how both are saved.

    A checkpoint holds the model with its adapter merged, which loads as any other, and the adapter
    as it is in a folder of its own: neither rounds the other. As B starts at 0, a fresh adapter
    leaves what the model computes as it was.

    Args:
        model: Changed in place; all of its own weights are frozen.
        options: Rank, at least 1, scale and layers.
        seed: Integer in [0, 2**64) from which A is drawn.

    Attributes:
        model: The model, of the same class as before; only its adapter is trained.
        adapter: Rank and scale.

    Raises:
        ConfigError: PEFT is not installed, or the targets are not linear layers that can have
            an adapter.
    """

    def __init__(self, model: PreTrainedModel, options: LoraOptions, *, seed: int) -> None:
        require("peft", "lora", ConfigError)
        import peft

        self.model = model
        self._base = state_hash(model.state_dict())
        settings = peft.LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            target_modules=options.targets,
            task_type="CAUSAL_LM",
            base_model_name_or_path=model.name_or_path,
        )
        # PEFT makes layers of torch, which draw from the global generator and take no other.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                peft.inject_adapter_in_model(settings, model)
            except ValueError as error:
                raise ConfigError(f"lora: expected layers of the model, found: {error}") from error
        self.adapter = Adapter.of(settings)
        _check_layers(model)

    def save_pretrained(self, save_directory: str, /) -> None:
        """Write the merged model into a folder, and the adapter into one inside it."""
        state = self.model.state_dict()
        # What is merged goes to the CPU at once: the device may have no room for a second model.
        # The rest stays what it is, or tied weights would no longer be seen to be.
        merged = {
            name: tensor if name in state else tensor.cpu()
            for name, tensor in self.adapter.merged(state)
        }
        self.model.save_pretrained(save_directory, state_dict=merged)
        self.adapter.save(state, Path(save_directory) / ADAPTER_FOLDER, base=self._base)

    def load(self, checkpoint: Path) -> None:
        """Take over the adapter of a checkpoint.

        Args:
            checkpoint: A folder that `save_pretrained` wrote.

        Raises:
            WeightsError: The adapter is of another shape, or was trained on other weights.
        """
        path = checkpoint / ADAPTER_FOLDER / ADAPTER_FILE
        own = {file_name(name): name for name in adapter_names(self.model.state_dict())}
        with safe_open(path, framework="pt") as file:
            base, saved = file.metadata().get("base"), {n: file.get_tensor(n) for n in file.keys()}
        if base != self._base:
            raise WeightsError(
                f"expected the weights that {path} was trained on (SHA-256 {base}), found others "
                f"({self._base}) in {self.model.name_or_path}; put back the model that the run "
                "started from"
            )
        state = {own.get(name, name): tensor for name, tensor in saved.items()}
        copy_weights(self.model, state)


def _check_layers(model: PreTrainedModel) -> None:
    """Refuse layers whose adapter could not be merged: embeddings, and a head that may be tied."""
    head: object = model.get_output_embeddings()
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and (module is head or not is_adapted_linear(module)):
            raise ConfigError(
                f"lora.targets: expected linear layers before the output's, found {name} "
                f"({type(module).__name__}); use all-linear, or a pattern that leaves it out"
            )
