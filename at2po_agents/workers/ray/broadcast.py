"""Weights by a collective broadcast: from rank 0 of the learner to all collectors at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor

from at2po_agents.policy.loading import find_device


class Part(NamedTuple):
    """A tensor that travels once, whatever number of names it has.

    Attributes:
        names: Its names in the state; tied weights have several.
        shape: Its shape.
        dtype: Its number format.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


def layout_of(state: Mapping[str, Tensor]) -> list[Part]:
    """Return what has to travel of a state, in order.

    Args:
        state: Tensor by name; those that are one memory in one shape are one part.
    """
    names: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        names.setdefault(key, []).append(name)
    return [Part(tuple(own), tuple(key[1]), key[3]) for key, own in names.items()]


class Seat(NamedTuple):
    """The place of a process in a group.

    Attributes:
        group: Number of the group, of which there may be many in a run.
        address: `host:port` at which member 0 waits for the others.
        number: That of the member; 0 sends.
        size: Members.
    """

    group: int
    address: str
    number: int
    size: int


class Broadcast:
    """A process's part in the groups, beside torch's default one, through which weights are sent.

    A group is joined when the first weights go through it; the one before is left then. It uses
    NCCL on GPUs, which we have not run, and gloo on CPUs. Tensors travel as bytes, which are the
    same at both ends whatever the number format.

    Args:
        device: Where tensors are sent from and received, as for `find_device`; the same kind for
            all members.
        timeout_s: Longest wait for other members, in seconds, above 0.
    """

    def __init__(self, device: str, timeout_s: float) -> None:
        self._name, self._timeout = device, timedelta(seconds=timeout_s)
        self._seat: Seat | None = None
        self._store: Any = None
        self._group: Any = None

    @property
    def device(self) -> torch.device:
        """Where tensors are sent from and received."""
        return find_device(self._name)

    def send(self, seat: Seat, state: Mapping[str, Tensor]) -> None:
        """Send a state to all other members.

        Args:
            seat: This member's.
            state: Tensor by name, on any device.

        Raises:
            RuntimeError: If members are lost, or late.
        """
        device = self.device
        parts = [state[part.names[0]].detach().to(device) for part in layout_of(state)]
        self._pass(seat, parts)

    def receive(self, seat: Seat, layout: Sequence[Part]) -> dict[str, Tensor]:
        """Return the state that member 0 sends.

        Args:
            seat: This member's.
            layout: What `layout_of` returns of it.

        Raises:
            RuntimeError: If members are lost, or late.
        """
        device = self.device
        tensors = [torch.empty(part.shape, dtype=part.dtype, device=device) for part in layout]
        self._pass(seat, tensors)
        given = zip(layout, tensors, strict=True)
        return {name: tensor for part, tensor in given for name in part.names}

    def _pass(self, seat: Seat, tensors: Sequence[Tensor]) -> None:
        """Give all members the tensors of member 0; return when this one is through."""
        if seat != self._seat:
            self._join(seat)
        parts = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
        for work in [self._group.broadcast(part, 0) for part in parts]:
            work.wait()
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # NCCL's wait is one of streams, not of this process

    def _join(self, seat: Seat) -> None:
        from torch.distributed import ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]

        if self._group is not None:
            self._group.abort()  # waits for nobody: members of old groups may be gone
        host, _, port = seat.address.rpartition(":")
        first, timeout = seat.number == 0, self._timeout
        self._store = TCPStore(host, int(port), seat.size, first, timeout)
        if self.device.type == "cuda":
            from torch.distributed import ProcessGroupNCCL

            options = ProcessGroupNCCL.Options()
            options._timeout = timeout
            self._group = ProcessGroupNCCL(self._store, seat.number, seat.size, options)
        else:
            self._group = ProcessGroupGloo(self._store, seat.number, seat.size, timeout)
        self._seat = seat
