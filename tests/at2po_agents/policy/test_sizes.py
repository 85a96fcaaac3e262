"""Sizes of decoders: parameters by formula are those of transformers' own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from at2po_agents.errors import ModelNotFoundError, UnsupportedModelError
from at2po_agents.policy import loading as models
from at2po_agents.policy.loading import load_model
from at2po_agents.policy.sizes import SIZES, Decoder, find_sizes

# Of https://huggingface.co/Qwen: numbers of parameters in the files of weights.
PUBLISHED = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen2.5-7B": 7_615_616_512,
}


def configuration(sizes: Decoder) -> PretrainedConfig:
    """Return the configuration of a model of some sizes."""
    kind = Qwen3Config if sizes.norms_heads else Qwen2Config if sizes.has_bias else LlamaConfig
    return kind(
        num_hidden_layers=sizes.layers,
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        intermediate_size=sizes.intermediate,
        vocab_size=sizes.vocabulary,
        tie_word_embeddings=sizes.tied,
    )


def count(config: PretrainedConfig) -> int:
    """Count the parameters of a model that takes no memory."""
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


@pytest.mark.parametrize("name", SIZES)
def test_listed_models_have_the_parameters_of_their_modules(name: str) -> None:
    config = configuration(SIZES[name])
    assert Decoder.of(config) == SIZES[name]
    assert SIZES[name].parameters == count(config) == PUBLISHED[name]


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_has_the_parameters_of_its_modules(tied: bool) -> None:
    sizes = Decoder(3, 24, 6, 2, 4, 40, 100, tied=tied, norms_heads=False)
    assert Decoder.of(configuration(sizes)) == sizes
    assert sizes.parameters == count(configuration(sizes))


def test_the_embedded_model_is_measured_without_loading_it() -> None:
    sizes, source = find_sizes("mini")
    assert sizes.parameters == load_model("mini")[0].num_parameters()
    assert source == "its configuration"


def test_adapters_have_the_parameters_of_peft() -> None:
    peft = pytest.importorskip("peft")
    sizes = Decoder(2, 16, 4, 2, 8, 24, 31)
    model = AutoModelForCausalLM.from_config(configuration(sizes))
    peft.inject_adapter_in_model(peft.LoraConfig(r=3, target_modules="all-linear"), model)
    adapters = [p.numel() for name, p in model.named_parameters() if "lora_" in name]
    # PEFT adapts the head of a bare model too; ours must not.
    head = [p.numel() for name, p in model.named_parameters() if "lm_head.lora_" in name]
    assert sizes.adapter_parameters(3) == sum(adapters) - sum(head)


def test_a_folder_comes_before_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = Decoder(2, 16, 4, 2, 8, 24, 31)
    configuration(sizes).save_pretrained("Qwen/Qwen3-4B")
    assert find_sizes("Qwen/Qwen3-4B") == (sizes, "its configuration")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose hub does not answer and whose cache is empty."""
    monkeypatch.setattr(models, "_hub_problem", lambda name: OSError("no network"))
    monkeypatch.setattr(models.AutoConfig, "from_pretrained", _not_cached)


def _not_cached(source: str, **settings: Any) -> None:
    assert settings == {"local_files_only": True}
    raise OSError(source)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B", "Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"])
def test_the_list_helps_where_the_hub_does_not_answer(name: str) -> None:
    assert find_sizes(name) == (SIZES["Qwen2.5-7B"], "the sizes that at2po knows")


@pytest.mark.usefixtures("offline")
def test_an_unknown_model_is_an_error_that_names_what_is_known() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'nowhere/model'.*embedded.*hub.*Qwen3-32B"):
        find_sizes("nowhere/model")


@pytest.mark.parametrize("config", [GPT2Config(), LlamaConfig(attention_bias=True)])
def test_other_architectures_are_refused(config: PretrainedConfig) -> None:
    with pytest.raises(UnsupportedModelError, match=f"found {config.model_type}"):
        Decoder.of(config)
