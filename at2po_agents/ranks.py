"""The ranks that share a learner: processes that `torchrun` or Ray started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

from at2po_agents.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that learn together.

    Attributes:
        rank: Its number, from 0.
        size: How many there are; 1 asks nothing of `torch.distributed`.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0

    def gather(self, own: T) -> list[T]:
        """Return what each rank gave, in order; all ranks have to call it.

        Args:
            own: Anything that can be pickled.
        """
        if self.size == 1:
            return [own]
        import torch.distributed as dist

        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, own)
        return found  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.gather(None)

    def leave(self) -> None:
        """End the connection to the other ranks."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


def join(
    *, rank: int | None = None, size: int | None = None, address: str = "", timeout_s: float = 600.0
) -> Ranks:
    """Join the other ranks; without arguments those of `torchrun`, if it started this process.

    Args:
        rank: This process's number; None reads RANK as `torchrun` sets it.
        size: Number of ranks; None reads WORLD_SIZE.
        address: `host:port` of rank 0; empty reads MASTER_ADDR and MASTER_PORT.
        timeout_s: Longest wait for the others, in seconds, above 0.

    Returns:
        This process's rank; a process that is alone joins nothing.

    Raises:
        ConfigError: If only part of what `torchrun` sets is there.
    """
    if size is None:
        missing = [name for name in ("RANK", "WORLD_SIZE") if name not in os.environ]
        if len(missing) == 2:
            return Ranks()
        if missing:
            raise ConfigError(
                f"expected RANK and WORLD_SIZE as torchrun sets them, found no {missing[0]}; "
                "start with torchrun, or unset both"
            )
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size == 1:
        return Ranks()
    import torch.distributed as dist

    dist.init_process_group(
        # Objects and checkpoints go by the CPU, gradients by whatever the model is on.
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"tcp://{address}" if address else "env://",
        rank=rank or 0,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    return Ranks(rank or 0, size)


def share_out(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Share items out among parts so that the largest part is small.

    Args:
        sizes: Size of each item, such as the unique tokens of a tree.
        parts: Number of parts, at least 1.

    Returns:
        The numbers of each part's items, in ascending order; the same on every rank.

    Source: longest processing time first (Graham 1969): the largest part is at most 4/3 of the
    best possible.
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        part = loads.index(min(loads))
        shares[part].append(number)
        loads[part] += sizes[number]
    return [sorted(share) for share in shares]
