"""Training with an adapter: exact, of the adapter alone, and saved so that it goes on."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from at2po_agents.algorithms import GRPO
from at2po_agents.engines import Request, TransformersEngine
from at2po_agents.engines.transformers.decoding import decodable
from at2po_agents.errors import ConfigError, WeightsError
from at2po_agents.learner.logprobs import flat_logprobs
from at2po_agents.objective.losses import LossOutput
from at2po_agents.objective.rows import Rows
from at2po_agents.policy.adapters import adapter_names, base_state
from at2po_agents.policy.loading import load_model
from at2po_agents.policy.lora import Lora, LoraOptions
from at2po_agents.policy.weights import state_hash
from tests.at2po_agents.engines.engine_contract import (
    contexts,
    finish,
    make_model,
    make_tokenizer,
    miniwiki_requests,
)
from tests.at2po_agents.learner.test_learner import assert_same, flat_update, learner, trees
from tests.at2po_agents.policy.adapted import add_lora, answered, shake
from tests.at2po_agents.samples import flat_rows, tiny_model


def adapted(**options: Any) -> PreTrainedModel:
    """Return a small model with a fresh adapter."""
    model = tiny_model(**options)
    add_lora(model)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_run_starts_from_exactly_the_policy_that_it_was_given(dtype: torch.dtype) -> None:
    plain, model, rows = tiny_model(dtype=dtype), adapted(dtype=dtype), flat_rows(trees(2))
    for one, two in zip(flat_logprobs(plain, rows), flat_logprobs(model, rows), strict=True):
        assert torch.equal(one, two)
    assert type(model) is type(plain)
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_the_adapter_follows_from_the_seed_and_leaves_torch_s_generator_alone() -> None:
    before = torch.random.get_rng_state()
    states = []
    for seed in (2**64 - 1, 2**64 - 1, 5):
        model = tiny_model()
        add_lora(model, seed=seed)
        states.append(model.state_dict())
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = states
    for name in adapter_names(first):
        assert torch.equal(first[name], same[name])
        assert torch.equal(first[name], other[name]) == (".lora_B." in name)
    assert not any(first[name].any() for name in adapter_names(first) if ".lora_B." in name)


@settings(max_examples=5)
@given(st.integers(0, 2**32))
def test_training_on_packed_trees_equals_training_on_rows(seed: int) -> None:
    batch, ours, reference = trees(2, seed), adapted(), adapted()
    shake(ours)
    shake(reference)
    loss = flat_update(reference, batch, lr=0.1)
    assert learner(ours).update(batch)["loss"] == pytest.approx(loss, abs=1e-9)
    assert_same(ours, reference)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_only_the_adapter_changes(dtype: torch.dtype) -> None:
    model = adapted(dtype=dtype)
    shake(model)
    before = state_hash(base_state(model.state_dict()))
    ours = learner(model)
    masters = [master.detach().clone() for master in ours.masters.parameters]
    assert len(masters) == len(adapter_names(model.state_dict()))
    assert {master.dtype for master in masters} == {torch.promote_types(dtype, torch.float32)}
    ours.update(trees(2))
    assert state_hash(base_state(model.state_dict())) == before
    for old, new in zip(masters, ours.masters.parameters, strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradient_checkpointing_changes_nothing(dtype: torch.dtype) -> None:
    """What reaches the first checkpointed layer needs no gradient: the embeddings are frozen."""
    plain, saving, batch = adapted(dtype=dtype), adapted(dtype=dtype), trees(2)
    for model, saved in ((plain, False), (saving, True)):
        ours = learner(model, gradient_checkpointing=saved)
        for _ in range(2):
            assert ours.update(batch)["grad_norm"] > 0
    assert state_hash(saving.state_dict()) == state_hash(plain.state_dict())


@dataclass(frozen=True)
class Anchored(GRPO):
    """GRPO that keeps the reference's log-probabilities."""

    seen: Any = None

    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        self.seen.append((rows, logp.detach()))
        return super().loss(rows, logp, old)


def test_the_reference_is_the_model_without_its_adapter() -> None:
    model, copy, batch, seen = adapted(), adapted(), trees(2), []
    ours = learner(model, algorithm=Anchored(kl_coef=0.5, seen=seen), gradient_checkpointing=True)
    theirs = learner(copy, algorithm=GRPO(kl_coef=0.5))
    assert ours.reference is model
    theirs.reference = tiny_model().requires_grad_(False)
    theirs._score_reference = theirs._scorer(theirs.reference, offload=False)
    expected = torch.cat(flat_logprobs(tiny_model(), flat_rows(batch)))
    for _ in range(2):
        ours.update(batch)
        theirs.update(batch)
    for rows, _ in seen:
        torch.testing.assert_close(rows.ref_logprobs[rows.mask], expected, rtol=0, atol=1e-9)
    rows, logp = seen[-1]
    assert (logp[rows.mask] - expected).abs().max() > 1e-3
    assert_same(model, copy)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "granite"])
def test_the_engine_samples_with_the_adapter_what_it_samples_with_it_merged(kind: str) -> None:
    tokenizer = make_tokenizer()
    model, plain = make_model(kind, tokenizer), make_model(kind, tokenizer)
    lora = add_lora(model)
    shake(model)
    requests = [
        Request(i, ids, i, 20, temperature=0.8) for i, ids in enumerate(contexts(tokenizer, 8))
    ]
    before = finish(TransformersEngine(plain, tokenizer), requests)
    found = finish(TransformersEngine(model, tokenizer), requests)
    plain.load_state_dict(dict(lora.adapter.merged(model.state_dict())))
    merged = finish(TransformersEngine(plain, tokenizer), requests)
    for key, done in found.items():
        assert done.ids == merged[key].ids != before[key].ids
        # Norms of these models round to float32.
        assert done.logprobs == pytest.approx(merged[key].logprobs, abs=1e-5)
    assert {decodable(m) is not None for m in (model, plain)} == {kind != "granite"}


def test_engine_and_learner_agree_before_and_after_an_update() -> None:
    model, tokenizer = load_model("mini", torch.float64)
    add_lora(model)
    engine = TransformersEngine(model, tokenizer)
    ours = learner(model, lr=1e-2)
    requests = miniwiki_requests(tokenizer)[:6]
    written = []
    for _ in range(2):
        engine.load_weights(model.state_dict())
        done = finish(engine, requests)
        batch = answered(requests, done)
        found = torch.cat(flat_logprobs(model, flat_rows(batch))).detach()
        expected = [x for tree in batch for row in tree.rows() for x in row.leaf.logprobs]
        torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-5)
        written.append(expected)
        ours.update(batch)
    assert written[0] != written[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_loads_merged_and_its_adapter_as_it_was(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model, tokenizer = load_model("mini", dtype)
    lora = add_lora(model, rank=4)
    shake(model)
    lora.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    loaded, _ = load_model(str(tmp_path), dtype)
    assert type(loaded) is type(model)
    assert state_hash(dict(lora.adapter.merged(model.state_dict()))) == state_hash(
        loaded.state_dict()
    )
    again, _ = load_model("mini", dtype)
    add_lora(again, rank=4, seed=8).load(tmp_path)
    assert state_hash(again.state_dict()) == state_hash(model.state_dict())


def test_an_adapter_is_refused_on_other_weights_or_in_another_shape(tmp_path: Path) -> None:
    lora = add_lora(tiny_model())
    lora.save_pretrained(str(tmp_path))
    with pytest.raises(WeightsError, match="put back the model that the run started from"):
        add_lora(tiny_model(seed=1)).load(tmp_path)
    with pytest.raises(WeightsError, match="of another shape"):
        add_lora(tiny_model(), rank=2).load(tmp_path)
    with pytest.raises(WeightsError, match=r"unexpected \['base_model.model.model.layers.0.mlp"):
        add_lora(tiny_model(), targets=r".*self_attn\..*_proj").load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_restored_adapter_continues_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    batch = trees(2)
    lora = add_lora(tiny_model(dtype=dtype))
    ours = learner(lora.model, lr=1e-3)
    ours.update(batch)
    lora.save_pretrained(str(tmp_path))
    torch.save(ours.state_dict(), tmp_path / "state.pt")
    restored = add_lora(tiny_model(dtype=dtype), seed=3)
    restored.load(tmp_path)
    again = learner(restored.model, lr=1e-3)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        assert ours.update(batch) == again.update(batch)
    for one, two in zip(ours.masters.parameters, again.masters.parameters, strict=True):
        assert torch.equal(one, two)
    assert state_hash(restored.model.state_dict()) == state_hash(lora.model.state_dict())


def test_without_peft_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'at2po\[lora\]'"):
        Lora(tiny_model(), LoraOptions(rank=2), seed=0)


@pytest.mark.parametrize("targets", ["no_such_layer", "lm_head", ".*embed_tokens", ".*norm"])
def test_layers_that_cannot_have_an_adapter_are_refused(targets: str) -> None:
    with pytest.raises(ConfigError, match=r"^lora(\.targets)?: expected"):
        add_lora(tiny_model("llama"), targets=targets)


@pytest.mark.parametrize("setting", [{"rank": -1}, {"alpha": 0.0}, {"alpha": float("inf")}])
def test_options_outside_their_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"lora.{next(iter(setting))}: expected"):
        LoraOptions(**setting)
