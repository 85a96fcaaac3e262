"""What an adapter does to a model, and how its state is taken apart and merged."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from at2po_agents.errors import WeightsError
from at2po_agents.learner.logprobs import flat_logprobs
from at2po_agents.policy.adapters import (
    ADAPTER_FILE,
    adapter_names,
    base_state,
    find_adapter,
    without_adapter,
)
from at2po_agents.policy.weights import copy_weights, state_hash
from tests.at2po_agents.policy.adapted import add_lora, shake
from tests.at2po_agents.samples import flat_rows, random_tree, tiny_model

ROWS = flat_rows([random_tree(3), random_tree(4)])


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_merged_weights_are_base_plus_scale_times_b_times_a(family: str) -> None:
    plain, model = tiny_model(family), tiny_model(family)
    adapter = add_lora(model).adapter
    shake(model)
    assert adapter.scale == 5 / 3
    state = model.state_dict()
    merged = dict(adapter.merged(state))
    assert merged.keys() == plain.state_dict().keys()
    changed = 0
    for name, weight in plain.state_dict().items():
        layer = name.removesuffix(".weight")
        a, b = (state.get(f"{layer}.lora_{x}.default.weight") for x in "AB")
        if a is None or b is None:
            assert torch.equal(merged[name], weight)
        else:
            changed += 1
            expected = weight + 5 / 3 * torch.einsum("or,ri->oi", b, a)
            torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-12)
    assert changed == 2 * 7
    plain.load_state_dict(merged)
    for one, two in zip(flat_logprobs(plain, ROWS), flat_logprobs(model, ROWS), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-11)


def test_merging_rounds_once() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    adapter = add_lora(model).adapter
    shake(model)
    exact = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for (name, found), (_, expected) in zip(
        adapter.merged(model.state_dict()), adapter.merged(exact), strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert (found.double() - expected).abs().max() <= 2**-8 * expected.abs().max(), name


def test_merging_needs_the_weights_below() -> None:
    model = tiny_model()
    adapter = add_lora(model).adapter
    state = model.state_dict()
    with pytest.raises(WeightsError, match="weights that the adapter belongs to"):
        dict(adapter.merged({name: state[name] for name in adapter_names(state)}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_its_adapter_a_model_is_what_it_was(dtype: torch.dtype) -> None:
    plain, model = tiny_model(dtype=dtype), tiny_model(dtype=dtype)
    assert find_adapter(plain) is None
    add_lora(model)
    shake(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = flat_logprobs(plain, ROWS)
    with without_adapter(plain), without_adapter(model):
        for one, two in zip(expected, flat_logprobs(model, ROWS), strict=True):
            assert torch.equal(one, two)
    assert not torch.equal(expected[0], flat_logprobs(model, ROWS)[0])
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    assert state_hash(base_state(model.state_dict())) == state_hash(plain.state_dict())


def test_a_state_may_leave_out_what_never_changes_but_not_the_adapter() -> None:
    model = tiny_model()
    add_lora(model)
    copy = deepcopy(model)
    shake(model)
    state = model.state_dict()
    parts = {name: state[name] for name in adapter_names(state)}
    copy_weights(copy, parts)
    assert state_hash(copy.state_dict()) == state_hash(model.state_dict())
    first, *others = parts
    with pytest.raises(WeightsError, match="missing") as error:
        copy_weights(copy, {name: parts[name] for name in others})
    assert first in str(error.value)


def test_the_file_of_an_adapter_is_peft_s(tmp_path: Path) -> None:
    model = tiny_model()
    adapter = add_lora(model).adapter
    shake(model)
    adapter.save(model.state_dict(), tmp_path)
    import peft

    again = peft.PeftModel.from_pretrained(tiny_model(), tmp_path, autocast_adapter_dtype=False)
    for one, two in zip(
        flat_logprobs(again.get_base_model(), ROWS), flat_logprobs(model, ROWS), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    assert len(load_file(tmp_path / ADAPTER_FILE)) == 2 * 2 * 7
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 3
