from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from at2po_agents.algorithms import ATPO
from at2po_agents.learner.master_weights import MasterWeights
from at2po_agents.policy.weights import state_hash
from tests.at2po_agents.learner.test_learner import trees
from tests.at2po_agents.samples import StepLearner, tiny_model

LR = 1e-6


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


def test_masters_move_as_float32_weights_do_and_bfloat16_ones_do_not() -> None:
    numbers = torch.Generator().manual_seed(0)
    start = torch.rand(50, generator=numbers) + 0.5
    coarse, plain = (nn.Parameter(start.bfloat16()) for _ in range(2))
    fine = nn.Parameter(coarse.detach().float())
    masters = MasterWeights([coarse])
    optimizers = [
        torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
        for parameters in (masters.parameters, [plain], [fine])
    ]
    for _ in range(20):
        gradient = torch.randn(50, generator=numbers).bfloat16() + 0.5
        coarse.grad, plain.grad, fine.grad = gradient, gradient.clone(), gradient.float()
        masters.accumulate_grads()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        masters.copy_to_model()
    assert torch.equal(masters.parameters[0], fine)
    assert (fine - start.bfloat16()).abs().min() > 0
    assert torch.equal(plain, start.bfloat16())
    assert torch.equal(coarse, fine.bfloat16())


def test_gradients_of_packs_are_added_up_in_float32() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    masters = MasterWeights([parameter])
    for gradient in (256.0, 1.0):  # 257 is no bfloat16 number
        parameter.grad = torch.full((1,), gradient, dtype=torch.bfloat16)
        masters.accumulate_grads()
        assert parameter.grad is None
    assert masters.parameters[0].grad == 257.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_parameters_are_their_own_masters(dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    masters = MasterWeights(model.parameters())
    assert all(a is b for a, b in zip(masters.parameters, model.parameters(), strict=True))
    assert masters.state() == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_offloaded_masters_give_the_same_weights_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    batch, models = trees(3), [tiny_model(dtype=dtype) for _ in range(3)]
    # A budget of one token cuts trees: gradients of several passes are added up.
    settings: dict[str, Any] = {"algorithm": ATPO(), "lr": 1e-3, "token_budget": 1}
    here, away, resumed = models
    one, two = StepLearner(here, **settings), StepLearner(away, offload=True, **settings)
    for _ in range(2):
        assert one.update(batch) == two.update(batch)
    torch.save(two.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(away.state_dict())
    three = StepLearner(resumed, offload=True, **settings)
    three.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for ours in (one, two, three):
        ours.update(batch)
    assert torch.equal(flat(one.masters.parameters), flat(two.masters.parameters))
    assert torch.equal(flat(one.masters.parameters), flat(three.masters.parameters))
    assert (
        state_hash(here.state_dict())
        == state_hash(away.state_dict())
        == state_hash(resumed.state_dict())
    )
    own = {parameter.data_ptr() for parameter in away.parameters()}
    assert not own & {master.data_ptr() for master in two.masters.parameters}
    # What the model holds itself is not saved a second time, so a run may turn it on or off.
    assert len(one.masters.state()) == len(two.masters.state())


def test_a_state_of_another_model_is_refused() -> None:
    masters = MasterWeights([nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))])
    with pytest.raises(ValueError):
        masters.load([])
