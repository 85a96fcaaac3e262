"""Master weights: what the optimizer works on where a model's own numbers are too coarse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class MasterWeights:
    """Parameters in float32 or wider; a bfloat16 weight of 1 would not feel a step of 1e-6.

    A parameter that is narrower than float32 has a copy here, which keeps what rounding takes from
    the model. One that is not is its own master, and nothing changes for it.

    Attributes:
        parameters: The masters, in the order of the model's parameters; for an optimizer.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Copy what is too narrow.

        Args:
            parameters: Those of the model that are trained.

        Source: mixed precision training (arXiv 1710.03740), section 3.1.
        """
        self.parameters: list[nn.Parameter] = []
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # model's, master
        for own in parameters:
            wide = torch.promote_types(own.dtype, torch.float32)
            master = own if wide == own.dtype else nn.Parameter(own.detach().to(wide))
            self.parameters.append(master)
            if master is not own:
                self._pairs.append((own, master))

    def collect(self) -> None:
        """Add the model's gradients to those of the masters; called after every backward pass."""
        for own, master in self._pairs:
            if own.grad is not None:
                grad = own.grad.to(master.dtype)
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                own.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for own, master in self._pairs:
            own.copy_(master)

    def state(self) -> list[Tensor]:
        """Return the masters that are copies: a checkpoint of the model does not hold them."""
        return [master.detach() for _, master in self._pairs]

    @torch.no_grad()
    def load(self, state: Sequence[Tensor]) -> None:
        """Restore what `state` returned, and the model's rounding of it.

        Args:
            state: One tensor per master that is a copy.
        """
        for (_, master), saved in zip(self._pairs, state, strict=True):
            master.copy_(saved)
        self.publish()
