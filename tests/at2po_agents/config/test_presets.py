"""Presets against the papers' hyper-parameters.

Source: `ATPO/scripts/ATPO_qwen3_4B.sh` of the code released with AT²PO (arXiv 2601.04767), and its
Tables 2 and 3 for the ablations.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from operator import attrgetter
from typing import Any

import pytest

from at2po_agents.algorithms import REGISTRY
from at2po_agents.config.train import PRESETS, TrainConfig, load_config, parse_config
from at2po_agents.errors import ConfigError
from at2po_agents.rollout.expansion import AEPOBranching, Chains, EntropyGuided, RandomExpansion

MODELS = {
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
}
DATA = {"multihop": ("at2po/HotpotQA-v0", "dev"), "singlehop": ("at2po/NQ-v0", "test")}
SHARED = {
    "steps": 240,
    "rollout.questions_per_step": 64,
    "optim.mini_batches": 8,
    "optim.learning_rate": 1e-6,
    "optim.weight_decay": 0.01,
    "optim.grad_clip": 1.0,
    "rollout.temperature": 1.0,
    "rollout.max_prompt_tokens": 2000,
    "rollout.max_response_tokens": 6192,
    "eval.every": 20,
}
TOKENS = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}
TOKEN_MEAN = {"aggregation": "token-mean", "soft_upper_clip": False, "kl_coef": 0.0}
ROW_MEAN = {"aggregation": "seq-mean-token-mean", "dual_clip": 0.0, "kl_coef": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "atpo": {
        **ROW_MEAN,
        **{"chains": 10, "iterations": 2, "beam": 6, "branch_penalty": 0.05},
        **{"ratio": "turn", "clip_low": 3e-3, "clip_high": 4e-3},
        **{"leaf_norm": "population", "value": "child_softmax", "advantage": "value"},
        **{"search": "entropy", "rule": "released", "entropy": "surprisal", "shared": "leaves"},
    },
    "grpo": {**TOKENS, **TOKEN_MEAN, "chains": 16, "kl_coef": 1e-3},
    "dapo": {
        **TOKENS,
        **TOKEN_MEAN,
        **{"chains": 16, "clip_high": 0.28, "oversample": 3, "metric": "em"},
        **{"max_length": 6192, "buffer": 2000},
    },
    "gspo": {**ROW_MEAN, "chains": 16, "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "arpo": {**TOKENS, **TOKEN_MEAN, "chains": 16, "initial_chains": 8, "beam": 2, "weight": 0.2},
    "aepo": {
        **TOKENS,
        **TOKEN_MEAN,
        **{"chains": 16, "initial_chains": 8, "beam": 2, "weight": 0.2},
        **{"soft_upper_clip": True, "entropy_weight": 0.2},
    },
    "tree_grpo": {**TOKENS, **TOKEN_MEAN, "kl_coef": 1e-3, "trees": 8, "beam": 2},
    "react": {},
}
TABLE_2 = {
    "random-grpo": {**TOKENS, "aggregation": "token-mean", "search": "random", "advantage": "rows"},
    "random-turn-loss": {"search": "random", "advantage": "rows"},
    "entropy-turn-loss": {"search": "entropy", "advantage": "rows"},
}
TABLE_3 = {
    "value-child-mean": {"value": "child_mean", "advantage": "value"},
    "value-leaf-mean": {"value": "leaf_mean", "advantage": "value"},
    "local-child-weighted": {"value": "child_softmax", "advantage": "minus_parent"},
    "local-leaf-mean": {"value": "leaf_mean", "advantage": "minus_parent"},
    "global-child-weighted": {"value": "child_softmax", "advantage": "minus_root"},
    "global-leaf-mean": {"value": "leaf_mean", "advantage": "minus_root"},
    "local-global-leaf-mean": {"value": "leaf_mean", "advantage": "sum"},
}


def settings_of(thing: Any) -> dict[str, Any]:
    return {item.name: getattr(thing, item.name) for item in fields(thing)}


@pytest.mark.parametrize(("model", "data", "method"), list(product(MODELS, DATA, METHODS)))
def test_every_backbone_with_every_method(model: str, data: str, method: str) -> None:
    config = parse_config(
        TrainConfig, ["--config", f"{model}-{data}", "--algorithm", method], prog="at2po train"
    )
    env, split = DATA[data]
    assert (config.model.name, config.env) == (MODELS[model], env)
    assert config.env_options == {"split": "train"}
    assert config.eval.env_options == {"split": split}
    assert {name: attrgetter(name)(config) for name in SHARED} == SHARED
    assert type(config.algorithm) is REGISTRY[method]
    assert settings_of(config.algorithm).items() >= METHODS[method].items()


def test_all_methods_have_their_row_in_the_table() -> None:
    assert METHODS.keys() == REGISTRY.keys()


@pytest.mark.parametrize("name", {**TABLE_2, **TABLE_3})
def test_ablations_change_what_they_name_and_nothing_else(name: str) -> None:
    changed = {**TABLE_2, **TABLE_3}[name]
    config, whole = (
        load_config(TrainConfig, preset) for preset in (f"ablation-{name}", "qwen3-4b-multihop")
    )
    assert settings_of(config.algorithm) == {**settings_of(whole.algorithm), **changed}
    assert {**settings_of(config), "algorithm": None, "out": None} == {
        **settings_of(whole),
        **{"algorithm": None, "out": None},
    }


def cost(expansion: Any) -> tuple[float, float]:
    """Least and most chains' worth of tokens of a question; a fork costs about half a chain."""
    if isinstance(expansion, Chains):
        return expansion.chains, expansion.chains
    if isinstance(expansion, EntropyGuided | RandomExpansion):
        forks = expansion.chains + expansion.iterations * expansion.beam / 2
        return forks, forks
    if isinstance(expansion, AEPOBranching) or hasattr(expansion, "initial_chains"):
        return (expansion.initial_chains + expansion.chains) / 2, expansion.chains
    half = expansion.trees * (1 + expansion.iterations * expansion.beam / 2)
    return half, half


@pytest.mark.parametrize("method", METHODS)
def test_mini_presets_spend_about_as_many_tokens_as_the_demo(method: str) -> None:
    config = load_config(TrainConfig, f"mini-{method.replace('_', '-')}")
    demo = load_config(TrainConfig, "demo")
    assert type(config.algorithm) is REGISTRY[method]
    if method == "react":
        assert config.steps == 0
        return
    if method == "atpo":
        assert config.algorithm == demo.algorithm
    assert config.steps == demo.steps
    least, most = cost(config.algorithm.expansion())
    assert least <= cost(demo.algorithm.expansion())[0] <= most


@pytest.mark.parametrize("method", [name for name in METHODS if name != "react"])
def test_the_papers_methods_cost_about_16_chains(method: str) -> None:
    least, most = cost(REGISTRY[method]().expansion())
    assert least <= 16 <= most


def test_there_is_no_other_preset() -> None:
    known = {f"{model}-{data}" for model, data in product(MODELS, DATA)}
    known |= {f"ablation-{name}" for name in {**TABLE_2, **TABLE_3}}
    known |= {f"mini-{method.replace('_', '-')}" for method in METHODS}
    assert {path.stem for path in PRESETS.glob("*.toml")} == known | {"demo", "smollm2"}


def test_a_table_of_another_algorithm_takes_the_place_of_the_base_s(tmp_path: Any) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "demo"\nsteps = 3\n[algorithm]\nname = "gspo"\nchains = 6')
    config = load_config(TrainConfig, path)
    assert (config.steps, config.rollout.questions_per_step, config.algorithm.chains) == (3, 16, 6)
    above = tmp_path / "above.toml"
    above.write_text('extends = "mine.toml"\n[algorithm]\nclip_low = 0.1')
    config = load_config(TrainConfig, above)
    assert (config.algorithm.chains, config.algorithm.clip_low) == (6, 0.1)


def test_another_model_keeps_the_base_s_other_settings(tmp_path: Any) -> None:
    config = load_config(TrainConfig, "qwen3-8b-multihop")
    assert (config.model.name, config.model.dtype) == ("Qwen/Qwen3-8B", "bfloat16")
    path = tmp_path / "mine.toml"
    path.write_text('extends = "smollm2"\n[engine]\nname = "vllm"')
    config = load_config(TrainConfig, path)
    assert (config.engine.name, config.engine.max_batch) == ("vllm", 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "run.toml"', "circle"),
        ('extends = "demmo"', "did you mean 'demo'|found neither"),
        ('[algorithm]\nname = "grop"', "did you mean 'grpo'"),
        ("[algorithm]\nname = 3", r"algorithm\.name: expected text"),
        ("algorithm = 3", "algorithm: expected a table"),
        ('[algorithm]\nname = "grpo"\nbeam = 3', r"unknown key 'algorithm\.beam'"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Any, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, path)


def test_fields_given_on_the_command_line_keep_the_file_s_others() -> None:
    arguments = ["--config", "mini-dapo", "--algorithm", "dapo", "--algorithm.clip-low", "0.1"]
    config = parse_config(TrainConfig, arguments, prog="at2po train")
    assert (config.algorithm.clip_low, config.algorithm.chains) == (0.1, 8)
