"""The throughput benchmark: it counts what it says, on a model too small to be timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.config.train import TrainConfig, dump_config, load_config, override
from at2po_agents.training.warmstart import WarmStart, new_model, train_tokenizer
from benchmarks.errors import EvaluationError
from benchmarks.speed import throughput


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("model")
    options = {"questions": 20, "passages": 100}
    env = gymnasium.make("at2po/MiniWiki-v0", **options).unwrapped
    tokenizer = train_tokenizer([p.contents for p in env.wiki.corpus], 300)
    size = WarmStart(layers=1, width=32)
    new_model(size, len(tokenizer), tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    demo = load_config(TrainConfig, "demo")
    return override(
        demo,
        {
            "model.name": str(folder),
            "env_options": options,
            "eval.env_options": options,
            "rollout.questions_per_step": 2,
            "optim.mini_batches": 1,
            "rollout.max_response_tokens": 8,
            "algorithm": replace(demo.algorithm, chains=2, iterations=1, beam=1),
        },
    )


def test_the_figures_fit_each_other(config: TrainConfig) -> None:
    figures = throughput.measure(config, steps=2, warmup=1)
    # 2 steps of 2 questions with 3 rows of at most 8 tokens each.
    assert 12 < figures["sampled_tokens"] <= 2 * 2 * 3 * 8
    assert figures["engine"]["sampled"] == figures["sampled_tokens"]
    assert figures["unique_tokens"] < figures["row_tokens"]
    assert figures["trained_tokens"] <= figures["unique_tokens"]
    rate = figures["sampled_tokens"] / figures["rollout_seconds"]
    assert figures["sampled_tokens_per_second"] == pytest.approx(rate, rel=0.05)
    assert figures["parameters"] > 0
    assert figures["peak_rss_mib"] > 50
    assert figures["environment"]["cores"] >= 1
    assert figures["environment"]["versions"]["torch"]


def test_the_command_writes_json(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset, out = tmp_path / "tiny.toml", tmp_path / "results" / "throughput.json"
    preset.write_text(dump_config(config))
    throughput.main(["--preset", str(preset), "--steps", "1", "--warmup", "0", "--out", str(out)])
    assert json.loads(out.read_text())["steps"] == 1
    assert capsys.readouterr().out == out.read_text()


@pytest.mark.parametrize("counts", [{"steps": 0}, {"warmup": -1}])
def test_counts_out_of_range_are_refused(config: TrainConfig, counts: dict[str, int]) -> None:
    with pytest.raises(EvaluationError, match="expected steps >= 1 and warmup >= 0"):
        throughput.measure(config, **counts)
