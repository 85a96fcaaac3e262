from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from at2po_agents.policy.loading import load_policy
from at2po_agents.policy.norms import exact_norms


def norms(model: PreTrainedModel) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if type(m).__name__.endswith("RMSNorm")}


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
def test_norms_are_exact_in_float64(kind: type[nn.Module]) -> None:
    rng = torch.Generator().manual_seed(0)
    norm = kind(6, eps=1e-3).double()
    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=rng)
    model = nn.ModuleDict({"norm": norm, "other": nn.LayerNorm(6)})
    x = torch.randn(50, 6, dtype=torch.float64, generator=rng)
    exact = norm.weight * x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    assert (norm(x) - exact).abs().max() > 1e-9
    before = model.state_dict()
    exact_norms(model)
    torch.testing.assert_close(model["norm"](x), exact, rtol=0, atol=1e-14)
    assert model.state_dict().keys() == before.keys()
    assert model["norm"].weight is norm.weight
    assert isinstance(model["other"], nn.LayerNorm)


def test_a_policy_has_exact_norms_in_float64_only() -> None:
    wide, narrow = (load_policy("mini", dtype, "model")[0] for dtype in ("float64", "float32"))
    assert norms(wide).keys() == norms(narrow).keys()
    assert {type(norm) for norm in norms(wide).values()} == {nn.RMSNorm}
    assert nn.RMSNorm not in {type(norm) for norm in norms(narrow).values()}
    assert not wide.training and not any(norm.training for norm in norms(wide).values())
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, narrow(ids).logits.double(), rtol=0, atol=1e-3)
