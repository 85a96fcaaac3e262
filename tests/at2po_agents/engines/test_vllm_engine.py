"""The vLLM engine on a CPU: the contract of engines, and equality with the transformers engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines import Request
from at2po_agents.errors import EngineUnavailableError, RequestError
from at2po_agents.policy.loading import load_model
from tests.at2po_agents.engines.engine_contract import (
    EngineContract,
    Make,
    change_weights,
    check_as_transformers,
    finish,
    make_model,
    make_tokenizer,
    miniwiki_requests,
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


def test_mini_model_writes_what_it_writes_in_transformers(make: Make) -> None:
    model, tokenizer = load_model("mini")
    requests = miniwiki_requests(tokenizer, temperature=0.0)
    engine = make(model, tokenizer)
    before = check_as_transformers(engine, model, tokenizer, requests)
    assert {done.finish for done in before.values()} >= {"stop"}
    change_weights(model)
    engine.load_weights(model.state_dict())
    assert check_as_transformers(engine, model, tokenizer, requests) != before


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
