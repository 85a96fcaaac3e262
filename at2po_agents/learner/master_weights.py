"""Master weights: what the optimizer works on where a model's own numbers are too coarse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class MasterWeights:
    """Parameters in float32 or wider; a bfloat16 weight of 1 would not feel a step of 1e-6.

    A parameter that is narrower than float32 has a copy here, which keeps what rounding takes from
    the model. One that is not is its own master, and nothing changes for it. Offloaded, every
    parameter has a copy, in the CPU's memory: the optimizer's state and its steps are there too.

    Args:
        parameters: Those of the model that are trained.
        offload: Keep the masters in the CPU's memory.

    Attributes:
        parameters: The masters, in the order of the model's parameters; for an optimizer.

    Source: mixed precision training (arXiv 1710.03740), section 3.1; ZeRO-Offload (arXiv
    2101.06840) for what is left to the CPU.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, offload: bool = False) -> None:
        self.parameters: list[nn.Parameter] = []
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # model's, master
        for own in parameters:
            wide = torch.promote_types(own.dtype, torch.float32)
            master = own
            if offload or wide != own.dtype:
                place = torch.device("cpu") if offload else own.device
                master = nn.Parameter(own.detach().to(place, wide, copy=True))
                self._pairs.append((own, master))
            self.parameters.append(master)

    def accumulate_grads(self) -> None:
        """Add the model's gradients to those of the masters; called after every backward pass."""
        for own, master in self._pairs:
            if own.grad is not None:
                grad = _moved(own.grad, master.device).to(master.dtype)
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                own.grad = None

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Round the masters into the model."""
        for own, master in self._pairs:
            own.copy_(master)

    def state(self) -> list[Tensor]:
        """Return the masters that hold more than the model: its checkpoint lacks them."""
        return [master.detach() for own, master in self._pairs if own.dtype != master.dtype]

    @torch.no_grad()
    def load(self, state: Sequence[Tensor]) -> None:
        """Restore what `state` returned, and the model's rounding of it.

        Args:
            state: One tensor per master that is wider than the model's parameter.
        """
        wider = [master for own, master in self._pairs if own.dtype != master.dtype]
        for master, saved in zip(wider, state, strict=True):
            master.copy_(saved)
        self.copy_to_model()


def _moved(gradient: Tensor, device: torch.device) -> Tensor:
    """Return a gradient on a device; torch lands what leaves a GPU like this in pinned memory."""
    moved = gradient.to(device, non_blocking=True)
    if gradient.is_cuda and not moved.is_cuda:  # not run on a GPU by us
        torch.cuda.current_stream(gradient.device).synchronize()
    return moved
