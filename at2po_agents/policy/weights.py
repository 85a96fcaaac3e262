"""The weights of a model: their hash, their names and shapes, and putting others in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from at2po_agents.errors import WeightsError
from at2po_agents.policy.adapters import adapter_names


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of the weights in a state, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class StateLayout:
    """Names and shapes of a model's state, without its memory.

    Of a model with an adapter (LoRA) only the adapter's tensors are needed: the others are as they
    were when it was made.

    Args:
        model: the model described.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = type(model).__name__
        own = model.state_dict()
        self._needed = adapter_names(own) or list(own)
        self._shapes = {name: tensor.shape for name, tensor in own.items()}
        self._memory = {name: tensor.data_ptr() for name, tensor in own.items()}

    def complete(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state with tied weights under all of their names.

        Args:
            state: tensor by parameter name, what is needed at least; tied weights may be given
                under one of their names.

        Raises:
            WeightsError: names or shapes do not match the model.
        """
        given = {self._memory[name]: t for name, t in state.items() if name in self._memory}
        missing = [name for name in self._needed if self._memory[name] not in given]
        unexpected = [name for name in state if name not in self._shapes]
        shapes = [name for name, t in state.items() if t.shape != self._shapes.get(name, t.shape)]
        if missing or unexpected or shapes:
            raise WeightsError(
                f"expected all weights of {self._model}; missing {missing[:5]}, "
                f"unexpected {unexpected[:5]}, of another shape {shapes[:5]}; "
                "pass the full state dict of the same architecture"
            )
        return {
            name: state.get(name, given[memory])
            for name, memory in self._memory.items()
            if memory in given
        }


def copy_weights(model: PreTrainedModel, state: Mapping[str, Tensor]) -> None:
    """Copy a state into a model; tied weights may be given under one of their names.

    Args:
        model: takes the values; its dtype and device stay.
        state: tensor by parameter name: all of them, or at least those of the model's adapter.
            Tensors that are the model's own memory are skipped.

    Raises:
        WeightsError: names or shapes do not match; nothing is copied then.
    """
    StateLayout(model).complete(state)
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.data_ptr() != own[name].data_ptr():
                own[name].copy_(tensor)
