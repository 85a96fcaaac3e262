"""Training and evaluation with vLLM in this process, on a CPU."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.cli import main
from at2po_agents.engines import TransformersEngine
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.policy.lora import LoraOptions
from at2po_agents.training.trainer import Trainer
from tests.at2po_agents.engines.engine_contract import finish, miniwiki_requests
from tests.at2po_agents.training.runs import small

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # vLLM's and TensorBoard's own warnings are not ours
]


class Watched(Trainer):
    """After each evaluation, compares what the engine writes with the learner's weights."""

    written: list[dict[Any, Any]]

    def _evaluate(self) -> Any:
        result = super()._evaluate()
        engine, learning = self.workers.rollout.engine, self.workers.learning
        requests = miniwiki_requests(learning.policy.tokenizer, temperature=0.0)[:6]
        expected = finish(TransformersEngine(learning.model, learning.policy.tokenizer), requests)
        found = finish(engine, requests)
        for key, done in expected.items():
            assert found[key].ids == done.ids
            assert found[key].logprobs == pytest.approx(done.logprobs, abs=1e-4)
        self.written = [*getattr(self, "written", []), found]
        return result


@pytest.mark.parametrize("rank", [0, 4])
def test_two_steps_of_training_with_vllm_hand_over_every_update(rank: int, tmp_path: Path) -> None:
    if rank:
        pytest.importorskip("peft", reason="needs PEFT: pip install 'at2po[lora]'")
    config = small(
        tmp_path,
        steps=2,
        lora=LoraOptions(rank=rank),
        **{"engine.name": "vllm", "engine.options": {"cache_bytes": 1 << 26}, "eval.every": 1},
    )
    trainer = Watched(config)
    try:
        summary = trainer.run()
    finally:
        trainer.workers.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(row["policy/grad_norm"] > 0 for row in rows[1:])
    assert summary["sampled_tokens"] > 0
    before, between, after = trainer.written
    assert before[0].logprobs != between[0].logprobs != after[0].logprobs


def test_an_evaluation_gives_the_same_with_either_engine(tmp_path: Path) -> None:
    found = {}
    for engine in ("transformers", "vllm"):
        out = tmp_path / engine
        words = f"eval --limit 12 --engine {engine} --engine.options cache_bytes={1 << 26}"
        main([*words.split(), "--out", str(out)])
        gc.collect()  # ends vLLM
        lines = (out / "episodes.jsonl").read_text().splitlines()
        found[engine] = [json.loads(line) for line in lines]
    texts = {name: [episode["transcript"] for episode in found[name]] for name in found}
    assert len(texts["vllm"]) == 12
    assert texts["vllm"] == texts["transformers"]
