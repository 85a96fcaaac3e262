"""Whole runs with what saves memory, killed and resumed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from at2po_agents.algorithms import ATPO, GRPO
from at2po_agents.cli import main
from at2po_agents.config.train import RESUMABLE, TrainConfig, load_config, override, parse_config
from at2po_agents.errors import WeightsError
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.policy.adapters import ADAPTER_FILE
from at2po_agents.policy.loading import load_model
from at2po_agents.policy.lora import ADAPTER_FOLDER, LoraOptions
from at2po_agents.policy.weights import state_hash
from at2po_agents.training.trainer import Trainer
from tests.at2po_agents.learner.test_learner import trees
from tests.at2po_agents.samples import StepLearner, tiny_model
from tests.at2po_agents.training.runs import rows_without_time, small, tensor_hashes

pytestmark = pytest.mark.filterwarnings("default")  # TensorBoard's own warnings are not ours

ADAPTED = {"lora": LoraOptions(rank=4), "algorithm": GRPO(chains=3, kl_coef=0.1)}


class Killed(Trainer):
    """A run that ends in its second step, after the checkpoint of the first."""

    def _step(self) -> Any:
        if self.state.step == 1:
            raise KeyboardInterrupt
        return super()._step()


def brief(out: Path, **changes: Any) -> TrainConfig:
    """A run of two steps, of chains that end after a turn or two."""
    settings: dict[str, Any] = {
        "steps": 2,
        "checkpoint.every": 1,
        "rollout.questions_per_step": 2,
        "eval.every": 0,
        "eval.questions": 1,
        "rollout.max_response_tokens": 100,
    }
    return small(out, **(settings | changes))


def needs_peft(changes: dict[str, Any]) -> None:
    if "lora" in changes:
        pytest.importorskip("peft", reason="needs PEFT: pip install 'at2po[lora]'")


@pytest.mark.parametrize(
    "changes",
    [
        {"model.dtype": "bfloat16", "optim.learning_rate": 1e-4},
        ADAPTED,
        {
            **ADAPTED,
            "model.dtype": "bfloat16",
            "optim.gradient_checkpointing": True,
            "optim.offload": True,
        },
    ],
    ids=["bfloat16", "lora", "lora-bfloat16-checkpointing-offload"],
)
def test_a_killed_run_goes_on_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    needs_peft(changes)
    Trainer(brief(tmp_path / "whole", **changes)).run()
    with pytest.raises(KeyboardInterrupt):
        Killed(brief(tmp_path / "killed", **changes)).run()
    Trainer(brief(tmp_path / "killed", **changes, resume=True)).run()
    whole, killed = (
        tensor_hashes(tmp_path / name / "checkpoints" / "step_000002")
        for name in ("whole", "killed")
    )
    files = {"model.safetensors", "adam"}
    files |= {f"{ADAPTER_FOLDER}/{ADAPTER_FILE}"} if "lora" in changes else set()
    files |= {"masters"} if "model.dtype" in changes else set()
    assert whole.keys() == files
    assert whole == killed
    assert rows_without_time(tmp_path / "whole") == rows_without_time(tmp_path / "killed")
    rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")[1:]
    assert any(row["policy/grad_norm"] > 0 for row in rows)


def test_offloading_changes_no_bit_of_a_run_and_may_begin_in_its_midst(tmp_path: Path) -> None:
    Trainer(brief(tmp_path / "here")).run()
    with pytest.raises(KeyboardInterrupt):
        Killed(brief(tmp_path / "away")).run()
    Trainer(brief(tmp_path / "away", resume=True, **{"optim.offload": True})).run()
    here, away = (
        tensor_hashes(tmp_path / name / "checkpoints" / "step_000002") for name in ("here", "away")
    )
    assert here == away


def test_a_checkpoint_of_an_adapter_evaluates_as_a_plain_model(tmp_path: Path) -> None:
    needs_peft(ADAPTED)
    config = brief(tmp_path / "run", **ADAPTED)
    trainer = Trainer(config)
    trainer.run()
    last = tmp_path / "run" / "checkpoints" / "step_000002"
    loaded, _ = load_model(str(last))
    assert state_hash(loaded.state_dict()) != state_hash(load_model("mini")[0].state_dict())
    main(["eval", "--limit", "4", "--model", str(last), "--out", str(tmp_path / "eval")])
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary
    # The run goes on beside the weights that it started with, not beside merged ones.
    with pytest.raises(WeightsError, match="put back the model that the run started from"):
        other = Trainer(override(config, {"out": tmp_path / "other", "model.name": str(last)}))
        other.workers.learning.policy.saved.load(last)  # type: ignore[attr-defined]


ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "how-to" / "small-gpus.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offload", [False, True])
def test_the_guide_counts_the_learner_s_bytes(dtype: torch.dtype, offload: bool) -> None:
    model = tiny_model(dtype=dtype)
    ours = StepLearner(model, algorithm=ATPO(), offload=offload)
    ours.update(trees(1))
    (weight, *_), (master, *_) = model.parameters(), ours.masters.parameters
    state = ours.optimizer.state[master]
    # A gradient has the format of what it belongs to.
    own = 2 * weight.element_size()
    copies = 0 if master is weight else 2 * master.element_size()
    adam = sum(state[name].element_size() for name in ("exp_avg", "exp_avg_sq"))
    away = copies + adam if offload else 0
    name = str(dtype).removeprefix("torch.") + (", offload" if offload else "")
    row = [name, own, copies, adam, own + copies + adam - away, away]
    assert f"| {' | '.join(map(str, row))} |\n" in GUIDE


def test_the_guide_counts_the_weights_of_an_adapter() -> None:
    needs_peft(ADAPTED)
    shape = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    shape |= {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**shape, vocab_size=8)).bfloat16()
    import peft

    settings = peft.LoraConfig(r=16, target_modules="all-linear")
    peft.inject_adapter_in_model(settings, model, low_cpu_mem_usage=True)  # draws no numbers
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"rank 16 has {round(trained / 1e6)} million weights" in GUIDE
    assert f"so {20 * trained / 1e9:.1f} GB by the table" in GUIDE


def test_the_guide_s_settings_are_understood(tmp_path: Path) -> None:
    (table,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "run.toml").write_text(table)
    config = load_config(TrainConfig, tmp_path / "run.toml")
    assert (config.lora.rank, config.model.dtype) == (16, "bfloat16")
    (command,) = re.findall(r"```bash\nat2po train (.*?)\n```", GUIDE, re.DOTALL)
    words = command.replace("\\\n", " ").split()
    assert parse_config(TrainConfig, words, prog="at2po train").lora == config.lora
    assert {"optim.offload", "optim.token_budget"} <= RESUMABLE
    assert not {"model", "model.dtype", "lora", "optim", "optim.gradient_checkpointing"} & RESUMABLE
