"""The data-parallel process group of a learner: started by `torchrun` or Ray, or one process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

from at2po_agents.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class DataParallelGroup:
    """This process among those that learn together.

    Attributes:
        rank: Its number, from 0.
        world_size: Number of processes; 1 asks nothing of `torch.distributed`.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0

    def all_gather(self, own: T) -> list[T]:
        """Return what each rank gave, in order; all ranks have to call it.

        Args:
            own: Anything that can be pickled.
        """
        if self.world_size == 1:
            return [own]
        import torch.distributed as dist

        found: list[T | None] = [None] * self.world_size
        dist.all_gather_object(found, own)
        return found  # type: ignore[return-value]

    def destroy(self) -> None:
        """End the connection to the other ranks; one that has ended is none."""
        if self.world_size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


def join(
    *, rank: int | None = None, size: int | None = None, address: str = "", timeout_s: float = 3600
) -> DataParallelGroup:
    """Join the other ranks; without arguments those of `torchrun`, if it started this process.

    Args:
        rank: This process's number; None reads what `torchrun` sets.
        size: Number of ranks; None reads what `torchrun` sets.
        address: `host:port` of rank 0, where size is given.
        timeout_s: Longest wait for the others, in seconds, above 0: they may roll out, or wait for
            tools, while this one has done so.

    Returns:
        This process's rank; a process that is alone joins nothing.

    Raises:
        ConfigError: If only part of what `torchrun` sets is there, or it could not start ranks of
            several machines again.
    """
    torchrun = size is None
    if size is None:
        rank, size = _of_torchrun()
    if size == 1:
        return DataParallelGroup()
    import torch.distributed as dist

    store = None
    timeout = timedelta(seconds=timeout_s)
    if torchrun:
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        store, *_ = next(rendezvous("env://", timeout=timeout))
        if _store_outlives_ranks():
            # What dead ranks left there would be taken for an answer of those started again
            # (github.com/pytorch/pytorch/issues/135712).
            store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    dist.init_process_group(
        # Objects and checkpoints go by the CPU, gradients by whatever the model is on.
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        rank=rank or 0,
        world_size=size,
        timeout=timeout,
        init_method=None if torchrun else f"tcp://{address}",
        store=store,
    )
    return DataParallelGroup(rank or 0, size)


def _of_torchrun() -> tuple[int, int]:
    """Return rank and number of ranks as `torchrun` sets them; 0 of 1 where it does not."""
    known = os.environ
    missing = [name for name in ("RANK", "WORLD_SIZE") if name not in known]
    if len(missing) == 2:
        return 0, 1
    if missing:
        raise ConfigError(
            f"expected RANK and WORLD_SIZE as torchrun sets them, found no {missing[0]}; "
            "start with torchrun, or unset both"
        )
    restarts, machines = known.get("TORCHELASTIC_MAX_RESTARTS"), known.get("GROUP_WORLD_SIZE")
    if _store_outlives_ranks() and restarts not in (None, "0") and machines not in (None, "1"):
        raise ConfigError(  # each machine counts lives of its own
            f"--max-restarts: expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of "
            f"torchrun on {machines} machines, found it unset; set it, or leave out --max-restarts"
        )
    rank = int(known["RANK"])
    if torch.cuda.is_available():  # not run on a GPU by us
        torch.cuda.set_device(int(known.get("LOCAL_RANK", rank)))
    return rank, int(known["WORLD_SIZE"])


def _store_outlives_ranks() -> bool:
    """Whether the store at which ranks meet is that of `torchrun` itself."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
