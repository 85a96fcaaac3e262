"""A model whose weights are spread over ranks by FSDP2, and its state in one piece again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from at2po_agents import checkpoint
from at2po_agents.checkpoint import Pretrained
from at2po_agents.logprobs import token_logprobs
from at2po_agents.packing import Pack
from at2po_agents.ranks import Ranks


class ShardedScorer(nn.Module):
    """Scores packs with a model that it shards: each layer is one group, all the rest another.

    Shards of trained weights have at least float32 and are the master weights; a narrower model
    computes in its own number format on rounded copies, and gradients are summed in float32. Over
    ranks gradients are summed, not averaged: each rank's loss is its share of one whole.

    Args:
        model: Sharded in place; its head may be tied to its embedding.
        size: Number of ranks, all of which make this at the same time.
        temperature: Divides the logits, above 0.
        offload: Keep shards and what the optimizer makes of them in the memory of the CPU.

    Source: FSDP (arXiv 2304.11277) in the form of `torch.distributed.fsdp.fully_shard`.
    """

    def __init__(
        self, model: PreTrainedModel, size: int, *, temperature: float = 1.0, offload: bool = False
    ) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        narrow = model.dtype
        wide = torch.promote_types(narrow, torch.float32)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(wide)
        precision = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=wide)
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(model.device.type, (size,)),
            "mp_policy": MixedPrecisionPolicy() if narrow == wide else precision,
            "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        }
        for layer in model.base_model.layers:  # type: ignore[union-attr]
            fully_shard(layer, **settings)
        fully_shard(self, **settings)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                if model.device.type == "cuda":
                    module.set_force_sum_reduction_for_comms(True)

    def forward(self, pack: Pack) -> Tensor:
        """Return the log-probability of every unique sampled token, [S], as `token_logprobs`."""
        return token_logprobs(self.model, pack, temperature=self.temperature)


def full_state(sharded: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a sharded state in one piece; all ranks have to call it.

    Args:
        sharded: State of what a `ShardedScorer` holds, or part of it, with `keep_vars`: tied
            weights are one object.
        dtype: Number format of the result.

    Returns:
        Tensor by parameter name, tied weights under each of their names in one memory.
    """
    whole: dict[int, Tensor] = {}
    state = {}
    for name, tensor in sharded.items():
        if id(tensor) not in whole:
            gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            whole[id(tensor)] = gathered.detach().to(dtype)
        state[name] = whole[id(tensor)]
    return state


class ShardSaver:
    """Writes checkpoints of a sharded learner while it goes on; all ranks do all of it together.

    Args:
        model: What a `ShardedScorer` holds.
        optimizer: Of its parameters.
        tokenizer: Of the model.
        ranks: Those that hold the shards. They need one folder that all of them see.
    """

    def __init__(
        self, model: PreTrainedModel, optimizer: Optimizer, tokenizer: Pretrained, ranks: Ranks
    ) -> None:
        self._model, self._optimizer, self._tokenizer = model, optimizer, tokenizer
        self._ranks = ranks
        # A group that nothing else uses: it is at work while the others are.
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def save(self, root: Path, step: int, *, extra: Any, fingerprint: str, keep: int) -> None:
        """Copy the shards, and begin to write them; see `checkpoint.save`.

        Waits for the checkpoint before, whose errors are raised here.
        """
        self.wait()
        draft = checkpoint.draft(root, step)
        if self._ranks.first:
            checkpoint.begin(draft)
            self._model.config.save_pretrained(draft)
            self._tokenizer.save_pretrained(str(draft))
        self._ranks.wait()
        weights, moments = get_state_dict(self._model, self._optimizer)
        saving: Any = dcp.async_save(
            {"model": weights, "optimizer": moments},
            checkpoint_id=draft / checkpoint.SHARDS,
            process_group=self._group,
        )

        def finish() -> None:
            saving.result()
            if self._ranks.first:  # it has heard from all ranks by now
                checkpoint.finish(draft, extra=extra, fingerprint=fingerprint, keep=keep)

        self._pending = self._thread.submit(finish)

    def wait(self) -> None:
        """Wait until the last checkpoint is there, on all ranks."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
            self._ranks.wait()


def load_shards(folder: Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Read what `ShardSaver` wrote, by any number of ranks, into shards; all ranks call it.

    Args:
        folder: The checkpoint's folder of shards.
        model: What a `ShardedScorer` of a model of the same shape holds; changed in place.
        optimizer: Of its parameters; changed in place.
    """
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)


def read_shards(folder: Path) -> dict[str, Any]:
    """Read what `ShardSaver` wrote in one piece, without other ranks.

    Args:
        folder: The checkpoint's folder of shards.

    Returns:
        `model`: tensor by parameter name; `optimizer`: its `state` and `param_groups` by the names
        of parameters.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        file = Path(scratch) / "whole.pt"
        dcp_to_torch_save(folder, file)
        read: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return read


def learner_state(shards: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Return what `Learner.load_state_dict` takes in one process.

    Args:
        shards: What `read_shards` returned.
        model: The model, of the number format in which that process trains it.
    """
    own = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    moments = shards["optimizer"]["state"]
    (group,) = shards["optimizer"]["param_groups"]
    return {
        "optimizer": {
            "state": {number: moments[name] for number, (name, _) in enumerate(own)},
            "param_groups": [{**group, "params": list(range(len(own)))}],
        },
        "masters": [
            shards["model"][name]
            for name, p in own
            if torch.promote_types(p.dtype, torch.float32) != p.dtype
        ],
    }


@torch.no_grad()
def load_whole(state: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Give a sharded learner the state of one that a single process had.

    Args:
        state: `Learner.state_dict()` of one process.
        optimizer: The sharded learner's, with the same parameters in the same order.
    """
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(value: Any, like: Tensor) -> Any:
        if not (isinstance(like, DTensor) and isinstance(value, Tensor) and value.ndim):
            return value
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

    for parameter, master in zip(own, state["masters"], strict=False):  # none, or one for each
        parameter.copy_(part(master, parameter))
    moments = {
        number: {name: part(value, own[number]) for name, value in entry.items()}
        for number, entry in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": moments})
