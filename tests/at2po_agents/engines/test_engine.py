"""The transformers engine: the contract of engines, and what is special to it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from at2po_agents.engines import Request, TransformersEngine
from at2po_agents.engines.stopping import StopStrings
from at2po_agents.engines.transformers import engine as transformers_engine
from at2po_agents.engines.transformers.decoding import decodable
from at2po_agents.engines.transformers.sampling import uniforms
from at2po_agents.errors import UnsupportedModelError
from tests.at2po_agents.engines.engine_contract import (
    SHAPE,
    EngineContract,
    Make,
    check_logprobs,
    contexts,
    finish,
    make_model,
    make_tokenizer,
)


@pytest.fixture
def make() -> Make:
    return TransformersEngine


class TestContract(EngineContract):
    tolerances: ClassVar = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return make_model("qwen3", tokenizer)


def test_turn_is_a_function_of_its_context_and_its_seed_stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt = contexts(tokenizer, 1)[0]
    done = finish(TransformersEngine(model, tokenizer), [Request(0, prompt, 99, 15, 0.8)])[0]
    ids = list(prompt)
    for t in range(15):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, : len(tokenizer)]
        u = uniforms(np.array([99], dtype=np.uint64), np.array([t]))[0]
        ids.append(int(((logits / 0.8).softmax(-1).cumsum(-1) <= u).sum()))
    assert done.ids == ids[len(prompt) :]


def test_what_prompts_share_is_prefilled_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    shared = list(range(40, 70))
    # One row computes an equal prompt; the others take all of it but the token that gives logits.
    for tails, prefilled in (
        ([[5]] * 5, 31 + 4),
        ([[100 + i, 5, 6] for i in range(6)], 33 + 5 * 3),
    ):
        engine = TransformersEngine(model, tokenizer)
        requests = [Request(i, [*shared, *tail], i, 6) for i, tail in enumerate(tails)]
        done = finish(engine, requests)
        lengths = sum(len(request.ids) for request in requests)
        assert (engine.stats.prefilled, engine.stats.reused) == (prefilled, lengths - prefilled)
        assert engine.stats.sampled == sum(len(completion.ids) for completion in done.values())
        for request in requests:
            cold = finish(TransformersEngine(model, tokenizer, cache_bytes=0), [request])
            assert done[request.key].ids == cold[request.key].ids


def test_turns_and_forks_compute_no_prefix_twice(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """What they sample is in the contract."""
    engine = TransformersEngine(model, tokenizer, max_batch=4)
    prompt = list(range(50, 80))
    first = finish(engine, [Request(("turn", 0), prompt, 1, 10, 1.3)])["turn", 0]
    second = [*prompt, *first.ids, 9, 8, 7]
    before = engine.stats.prefilled
    requests = [
        Request(("turn", 1), second, 2, 10, 1.3),
        Request(("fork", 0), prompt, 3, 10, 1.3),
        Request(("fork", 1), second, 4, 10, 1.3),
    ]
    finish(engine, requests)
    # The follow-up computes the last sampled token and the inserted ones; the fork of the root
    # one token; the fork beside the follow-up the same four, because four are not worth a wait.
    assert engine.stats.prefilled - before == 4 + 1 + 4


def test_long_contexts_are_prefilled_in_chunks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(i, ids, i, 8) for i, ids in enumerate(contexts(tokenizer, 7, longest=100))]
    expected = finish(TransformersEngine(model, tokenizer), requests)
    monkeypatch.setattr(transformers_engine, "_PREFILL_TOKENS", 16)
    chunked = finish(TransformersEngine(model, tokenizer), requests)
    assert {key: done.ids for key, done in chunked.items()} == {
        key: done.ids for key, done in expected.items()
    }


def test_tokens_that_may_complete_a_stop_string(tokenizer: PreTrainedTokenizerBase) -> None:
    strings = StopStrings(tokenizer, len(tokenizer))

    def candidates(stop: tuple[str, ...]) -> set[int]:
        numbers = np.full(len(tokenizer), strings.number(stop))
        found = strings.candidates(numbers, np.arange(len(tokenizer)))
        return set(np.flatnonzero(found).tolist())

    pieces = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer))]
    assert candidates(()) == set()
    assert candidates(("</search>", "x")) == {
        i for i, piece in enumerate(pieces) if ">" in piece or "x" in piece
    }
    # A character of several bytes ends with a token that alone is not a character.
    assert tokenizer.encode("\u00e9")[-1] in candidates(("caf\u00e9",))
    # Tokenizers may drop the space of a lone token, so its piece proves nothing.
    assert candidates(("a ",)) == set(range(len(tokenizer)))


def test_a_closed_engine_is_idle(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer)
    engine.submit([Request(0, [4, 5], 0, 3)])
    engine.step()
    engine.close()
    engine.load_weights(model.state_dict())
    assert engine.step() == []


def test_model_is_left_as_it_was(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("gpt2", tokenizer).train()  # with dropout
    attention = model.config._attn_implementation
    prompt = contexts(tokenizer, 1)[0]
    engine = TransformersEngine(model, tokenizer)
    done = finish(engine, [Request(0, prompt, 0, 10), Request(1, prompt, 0, 10)])
    assert done[0].ids == done[1].ids
    assert model.training
    assert all(module.training for module in model.modules())
    assert model.config._attn_implementation == attention


def test_sliding_windows_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    config = Qwen3Config(
        **SHAPE,
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
    )
    with pytest.raises(UnsupportedModelError, match="sliding-window"):
        TransformersEngine(Qwen3ForCausalLM(config), tokenizer)


def test_a_model_with_foreign_parts_goes_through_its_own_forward(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    for kind in ("qwen3", "llama", "granite", "gpt2"):
        known = decodable(make_model(kind, tokenizer)) is not None
        assert known == (kind in ("qwen3", "llama"))

    class Doubled(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model: Any = make_model("llama", tokenizer)
    mlp = model.model.layers[0].mlp
    doubled = Doubled(mlp.down_proj.in_features, mlp.down_proj.out_features, bias=False)
    doubled.load_state_dict(mlp.down_proj.state_dict())
    mlp.down_proj = doubled.to(model.dtype)
    assert decodable(model) is None
    prompt = contexts(tokenizer, 1)[0]
    requests = [Request(0, prompt, 3, 10)]
    done = finish(TransformersEngine(model, tokenizer), requests)
    check_logprobs(model, tokenizer, requests, done, 1e-7)
