"""Work that several processes do together over gloo, as `torchrun` would have them do."""

from __future__ import annotations

import multiprocessing
import pickle
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from at2po_agents.learner.process_group import DataParallelGroup, join

T = TypeVar("T")


def together(size: int, work: Callable[..., T], *arguments: Any) -> list[T]:
    """Call `work(group, *arguments)` in several processes; return what each of them returned.

    Args:
        size: Number of ranks.
        work: A function that can be imported.
        *arguments: What can be pickled.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    context = multiprocessing.get_context("forkserver")
    # Imported once, for all processes of all tests.
    context.set_forkserver_preload(["at2po_agents.learner.fsdp", "tests.at2po_agents.samples"])
    with ProcessPoolExecutor(size, mp_context=context) as pool:
        calls = [pool.submit(_joined, rank, size, address, work, arguments) for rank in range(size)]
        return [pickle.loads(call.result()) for call in calls]


def _joined(
    rank: int, size: int, address: str, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> bytes:
    torch.set_num_threads(1)
    group: DataParallelGroup = join(rank=rank, size=size, address=address, timeout_s=300)
    try:
        # As bytes: tensors would stay in memory that ends with this process.
        return pickle.dumps(work(group, *arguments))
    finally:
        group.destroy()
