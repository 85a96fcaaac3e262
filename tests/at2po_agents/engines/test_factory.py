"""Engines by name, and turns that an engine reads token by token."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines import Request, TransformersEngine, make_engine
from at2po_agents.engines.turns import Turn, Vocabulary
from at2po_agents.engines.vllm.requests import sampling
from at2po_agents.errors import ConfigError, EngineServerError, NonFiniteLogitsError
from tests.at2po_agents.engines.engine_contract import contexts, finish, make_model, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return make_model("qwen3", tokenizer)


@pytest.fixture(scope="module")
def vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    return Vocabulary(model, tokenizer)


def test_options_reach_the_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = make_engine("transformers", model, tokenizer, max_batch=2, options={"cache_bytes": 0})
    assert isinstance(engine, TransformersEngine)
    for seed in range(2):
        finish(engine, [Request(seed, [4, 5, 6], seed, 3)])
    assert engine.stats.reused == 0


def test_unknown_options_are_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ConfigError, match="'cache_byte'; did you mean 'cache_bytes'"):
        make_engine("transformers", model, tokenizer, max_batch=2, options={"cache_byte": 0})


@pytest.mark.parametrize(("options", "extra"), [({}, "vllm"), ({"url": "http://x"}, "serve")])
def test_missing_packages_name_the_fix(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    extra: str,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'at2po\[{extra}\]'"):
        make_engine("vllm", model, tokenizer, max_batch=2, options=options)


def test_a_server_that_is_not_there_is_named(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(EngineServerError, match="http://127.0.0.1:1/server_info"):
        options = {"url": "http://127.0.0.1:1"}
        make_engine("vllm", model, tokenizer, max_batch=2, options=options)


def test_vllm_refuses_entropies_of_whole_distributions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ConfigError, match='expected "transformers" for entropies'):
        make_engine("vllm", model, tokenizer, max_batch=2, keep_entropies=True)


def test_a_turn_ends_where_the_transformers_engine_ends_it(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> None:
    prompt = contexts(tokenizer, 1)[0]
    free = finish(TransformersEngine(model, tokenizer), [Request(0, prompt, 11, 40)])[0]
    stops = sorted({free.text[i : i + n] for i in range(len(free.text)) for n in range(1, 5)})
    requests: list[Any] = [Request(stop, prompt, 11, 30, stop=(stop, "never")) for stop in stops]
    expected = finish(TransformersEngine(model, tokenizer), requests)
    finishes = set()
    for request in requests:
        turn, tokens = Turn(request, vocabulary), zip(free.ids, free.logprobs, strict=True)
        done = next(done for token in tokens if (done := turn.add(*token)))
        assert (done.ids, done.text) == (expected[request.key].ids, expected[request.key].text)
        assert done.finish == expected[request.key].finish
        finishes.add(done.finish)
    assert finishes == {"stop", "length"}


def test_an_end_token_ends_a_turn_before_its_limit_does(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase
) -> None:
    turn = Turn(Request("a", [4], 0, 2), vocabulary)
    assert turn.add(5, -1.0) is None
    done = turn.add(0, -2.0)
    assert done is not None
    assert (done.ids, done.logprobs, done.finish) == ([5, 0], [-1.0, -2.0], "eos")
    assert done.text == tokenizer.decode([5])


def test_a_token_without_a_distribution_is_an_error(vocabulary: Vocabulary) -> None:
    turn = Turn(Request("a", [4], 0, 2), vocabulary)
    with pytest.raises(NonFiniteLogitsError, match="request 'a'"):
        turn.add(5, float("nan"))


def test_seeds_stay_apart_in_vllm(vocabulary: Vocabulary) -> None:
    seeds = [0, 1, 2, 2**31, 2**63 - 2, 2**64 - 2, 2**64 - 1]
    mapped = [sampling(Request(0, [4], seed, 1), vocabulary)["seed"] for seed in seeds]
    assert all(0 <= seed < 2**63 for seed in mapped)  # signed, and -1 would mean no seed
    assert len(set(mapped)) == len(seeds) - 2  # 2**64 seeds have half as many places
