"""The vLLM engine on a CPU: the contract of engines, and equality with the transformers engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines import Request, TransformersEngine
from at2po_agents.errors import EngineUnavailableError, RequestError
from at2po_agents.policy.loading import load_model
from tests.at2po_agents.engines.engine_contract import (
    EngineContract,
    Make,
    contexts,
    finish,
    make_model,
    make_tokenizer,
    miniwiki_requests,
    reference_logprobs,
)
from tests.at2po_agents.engines.vllm_takes_over import TakesOver

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),  # vLLM's own warnings are not ours
]


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    makes = TakesOver()
    yield makes
    makes.close()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return make_model("qwen3", tokenizer, torch.float32)


class TestContract(EngineContract):
    tolerances: ClassVar = {torch.float32: 1e-5}


def test_a_sleeping_engine_takes_no_requests(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, make: Make
) -> None:
    engine = make(model, tokenizer)
    engine.sleep()
    with pytest.raises(EngineUnavailableError, match="asleep"):
        engine.submit([Request(0, [4, 5], 0, 3)])


def test_a_closed_engine_says_so(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, make: Make
) -> None:
    engine = make(model, tokenizer)
    engine.close()
    for use in (
        engine.sleep,
        lambda: engine.submit([Request(0, [4, 5], 0, 3)]),
        lambda: engine.load_weights(model.state_dict()),
    ):
        with pytest.raises(EngineUnavailableError, match="closed"):
            use()


def test_temperatures_that_vllm_would_change_are_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, make: Make
) -> None:
    engine = make(model, tokenizer)
    for temperature in (0.005, 2.5):
        with pytest.raises(RequestError, match=r"temperature 0 \(greedy\) or 0.01 to 2.0"):
            engine.submit([Request(0, [4, 5], 0, 3), Request(1, [4, 5], 0, 3, temperature)])
    assert engine.step() == []
    assert len(finish(engine, [Request(0, [4, 5], 0, 3, 0.01)])[0].ids) == 3


def test_bfloat16_samples_close_to_its_own_forward(
    tokenizer: PreTrainedTokenizerBase, make: Make
) -> None:
    model = make_model("qwen3", tokenizer, torch.bfloat16)
    prompt = contexts(tokenizer, 1)[0]
    done = finish(make(model, tokenizer), [Request("a", prompt, 1, 20)])["a"]
    expected = reference_logprobs(model, tokenizer, prompt, done.ids, 1.0).float()
    torch.testing.assert_close(torch.tensor(done.logprobs), expected, atol=0.25, rtol=0)


def test_mini_model_writes_what_it_writes_in_transformers(make: Make) -> None:
    model, tokenizer = load_model("mini")
    requests = miniwiki_requests(tokenizer, temperature=0.0)
    ours = finish(TransformersEngine(model, tokenizer), requests)
    theirs = finish(make(model, tokenizer), requests)
    assert {done.finish for done in ours.values()} >= {"stop"}
    for key, done in ours.items():
        assert (theirs[key].ids, theirs[key].text) == (done.ids, done.text)
        assert theirs[key].finish == done.finish
        assert theirs[key].logprobs == pytest.approx(done.logprobs, abs=1e-4)


def test_mini_model_gives_new_weights_effect_at_once(make: Make) -> None:
    model, tokenizer = load_model("mini")
    requests = miniwiki_requests(tokenizer, temperature=0.0)
    engine = make(model, tokenizer)
    before = finish(engine, requests)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():  # all of them: none may stay behind
            weight += 0.05 * weight.std() * torch.randn_like(weight)
    engine.load_weights(model.state_dict())
    after = finish(engine, requests)
    expected = finish(TransformersEngine(model, tokenizer), requests)
    assert after != before
    for key, done in expected.items():
        assert after[key].ids == done.ids
        assert after[key].logprobs == pytest.approx(done.logprobs, abs=1e-4)


def test_more_context_than_one_pass_takes_is_sampled_by_each_requests_seed(
    make: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model("llama", tokenizer, torch.float32)
    longest = model.config.max_position_embeddings
    limits = {"max_num_batched_tokens": longest + 7, "max_model_len": longest}
    engine = make(model, tokenizer, **limits)
    prompts = [[i, *range(20, 120)] for i in range(6)]
    done = finish(engine, [Request(i, ids, i, 8) for i, ids in enumerate(prompts)])
    for i, ids in enumerate(prompts):
        alone = finish(engine, [Request(i, ids, i, 8)])[i]
        assert done[i].ids == alone.ids
