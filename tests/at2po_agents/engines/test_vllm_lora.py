"""vLLM with an adapter, in this process and behind HTTP: what it samples is what the model says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.engines import Engine, make_engine
from at2po_agents.errors import WeightsError
from at2po_agents.policy.adapters import adapter_names
from at2po_agents.policy.loading import load_model
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.engines.engine_contract import check_logprobs, finish, miniwiki_requests
from tests.at2po_agents.engines.test_vllm_server import long, serving
from tests.at2po_agents.learner.test_learner import WIDE
from tests.at2po_agents.policy.adapted import add_lora, answered, shake
from tests.at2po_agents.samples import StepLearner

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

ROUTES = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}


def adapted() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load_model("mini")
    add_lora(model, rank=4)
    return model, tokenizer


@pytest.fixture(scope="module", params=["adapter", "merged", "server"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """vLLM that applies adapters itself, or gets merged weights."""
    options: dict[str, Any] = {"cache_bytes": 1 << 26}
    with ExitStack() as stack:
        if request.param == "merged":
            options["enable_lora"] = False
        if request.param == "server":
            log = tmp_path_factory.mktemp("server") / "log"
            server = serving(log, "--enable-lora", "--max-lora-rank", "8", **ROUTES)
            options = {"url": stack.enter_context(server)}
        made = make_engine("vllm", *adapted(), max_batch=64, options=options)
        yield made
        made.close()


def check(engine: Engine, model: PreTrainedModel, tokenizer: Any) -> list[RolloutTree]:
    """Compare what the engine samples with the model's own probabilities; return it as trees."""
    requests = long(miniwiki_requests(tokenizer, temperature=0.7)[:6])
    done = finish(engine, requests)
    check_logprobs(model, tokenizer, requests, done, 1e-4)
    return answered(requests, done)


def test_logprobs_are_the_learner_s_before_and_after_an_update(engine: Engine) -> None:
    model, tokenizer = adapted()
    learner = StepLearner(model, algorithm=WIDE, lr=1e-2)
    engine.load_weights(model.state_dict())
    before = check(engine, model, tokenizer)
    learner.update(before)
    engine.sleep()
    engine.load_weights(model.state_dict())
    after = check(engine, model, tokenizer)
    assert after[0].leaves()[0].logprobs != before[0].leaves()[0].logprobs


def test_many_adapters_follow_one_another(engine: Engine) -> None:
    model, tokenizer = adapted()
    for seed in range(4):
        shake(model, seed)
        engine.load_weights(model.state_dict())
        check(engine, model, tokenizer)


def test_the_adapter_is_enough_where_vllm_applies_it(
    engine: Engine, request: pytest.FixtureRequest
) -> None:
    model, tokenizer = adapted()
    shake(model, seed=9)
    state = model.state_dict()
    adapter = {name: state[name] for name in adapter_names(state)}
    if "merged" in request.node.callspec.id:
        with pytest.raises(WeightsError, match="weights that the adapter belongs to"):
            engine.load_weights(adapter)
    else:
        engine.load_weights(adapter)
        check(engine, model, tokenizer)
    with pytest.raises(WeightsError, match="missing"):
        engine.load_weights(dict(list(adapter.items())[1:]))
