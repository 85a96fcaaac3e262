"""A model whose weights are spread over ranks by FSDP2, and its state in one piece again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    ValueType,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
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

from at2po_agents.learner import checkpoint
from at2po_agents.learner.checkpoint_writing import Draft, Pretrained, unwritten
from at2po_agents.learner.logprobs import token_logprobs
from at2po_agents.learner.packing import Pack
from at2po_agents.learner.process_group import DataParallelGroup
from at2po_agents.policy.adapters import find_adapter
from at2po_agents.policy.lora import ADAPTER_FOLDER


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
        pinned = model.device.type == "cuda"
        precision = MixedPrecisionPolicy()
        if narrow != wide:
            precision = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=wide)
        mesh = init_device_mesh(model.device.type, (size,))
        offloading = CPUOffloadPolicy(pinned) if offload else OffloadPolicy()
        for part in (*model.base_model.layers, self):  # type: ignore[misc]
            for parameter in part.parameters():
                if parameter.requires_grad and parameter.dtype != wide:
                    parameter.data = parameter.data.to(wide)
            fully_shard(part, mesh=mesh, mp_policy=precision, offload_policy=offloading)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                # Else the factor would ask for NCCL's own kind of reduction.
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
    """Writes checkpoints of a sharded learner while it trains; all ranks do all of it together.

    Args:
        model: What a `ShardedScorer` holds.
        optimizer: Of its parameters.
        tokenizer: Of the model.
        group: Processes that hold the shards. They need one folder that all of them see.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        optimizer: Optimizer,
        tokenizer: Pretrained,
        group: DataParallelGroup,
    ) -> None:
        self._model, self._optimizer, self._tokenizer = model, optimizer, tokenizer
        self._group = group
        # Another that nothing else uses: it is at work while the first is.
        self._saving_group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def save(
        self, root: Path, step: int, *, extra: Mapping[str, object], fingerprint: str, keep: int
    ) -> None:
        """Copy shards and facts, and begin to write them; see `checkpoint_writing.save`.

        Waits for the checkpoint before, whose errors are raised here.
        """
        self.wait()
        extra = deepcopy(extra)
        with ExitStack() as ends:
            draft = None
            if self._group.is_main:
                draft = ends.enter_context(Draft(root, step, fingerprint))
                self._write_settings(draft.folder)
            folder = self._group.all_gather(Path() if draft is None else draft.folder)[0]
            saving = async_save(
                dict(_state(self._model, self._optimizer)),
                checkpoint_id=folder / checkpoint.SHARDS,
                process_group=self._saving_group,
            )
            held = ends.pop_all()

        def finish() -> None:
            with held:
                try:
                    cast("Future[object]", saving).result()
                except CheckpointException as error:  # is no Exception
                    raise unwritten(root, step, error) from error
                if draft is not None:  # rank 0 has heard from all ranks by now
                    draft.finish(extra=extra, keep=keep)

        self._pending = self._thread.submit(finish)

    def _write_settings(self, folder: Path) -> None:
        """Write what is no tensor."""
        self._model.config.save_pretrained(folder)
        if self._model.generation_config is not None:
            self._model.generation_config.save_pretrained(folder)
        if adapter := find_adapter(self._model):
            adapter.settings.save_pretrained(str(folder / ADAPTER_FOLDER))
        self._tokenizer.save_pretrained(str(folder))

    def wait(self) -> None:
        """Wait until this rank has nothing to do with the last checkpoint any more."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def load_shards(folder: Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Read what `ShardSaver` wrote, by any number of ranks, into shards; all ranks call it.

    Args:
        folder: The checkpoint's folder of shards.
        model: What a `ShardedScorer` of a model of the same shape holds; changed in place.
        optimizer: Of its parameters; changed in place.
    """
    state = _state(model, optimizer)
    load(state, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def read_shards(folder: Path, part: Literal["model", "optimizer"]) -> dict[str, Any]:
    """Read the tensors of a part of what `ShardSaver` wrote in one piece, without other ranks.

    Args:
        folder: The checkpoint's folder of shards.
        part: What to read.

    Returns:
        Of the model: tensor by parameter name. Of the optimizer: its `state`, by the same names.
    """
    written = FileSystemReader(folder).read_metadata()
    flat = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in written.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and written.planner_data[name][0] == part
    }
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it is alone
        load(flat, checkpoint_id=folder, no_dist=True)
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = written.planner_data[name][1:]
        place = found
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return found


class _Shards(TypedDict):
    """What is written of a learner, by the names of parameters."""

    model: dict[str, ValueType]
    optimizer: OptimizerStateType


def _state(model: PreTrainedModel, optimizer: Optimizer) -> _Shards:
    """Return the shards of weights and moments by the names of parameters."""
    fresh = not optimizer.state
    weights, moments = get_state_dict(model, optimizer)
    if fresh:  # torch has taken a step without effect to make the moments, and counted it
        for entry in optimizer.state.values():
            entry["step"].zero_()
    return {"model": weights, "optimizer": moments}


@torch.no_grad()
def load_whole(state: checkpoint.LearnerState, optimizer: Optimizer) -> None:
    """Give a sharded learner the state of one that a single process had.

    Args:
        state: `Learner.state_dict()` of one process.
        optimizer: The sharded learner's, with the same parameters in the same order.
    """
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(value: Tensor, like: Tensor) -> Tensor:
        if not (isinstance(like, DTensor) and value.ndim):
            return value
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

    for parameter, master in zip(own, state["masters"], strict=False):  # none, or one for each
        parameter.copy_(part(master, parameter))
    moments = {
        number: {name: part(value, own[number]) for name, value in entry.items()}
        for number, entry in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": moments})
