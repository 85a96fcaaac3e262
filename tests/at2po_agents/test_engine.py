"""The transformers engine against plain forward passes of the same models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from at2po_agents.engines import Completion, Request, TransformersEngine, transformers_engine
from at2po_agents.engines.sampling import uniforms
from at2po_agents.engines.stopping import StopStrings
from at2po_agents.errors import (
    EngineBusyError,
    NonFiniteLogitsError,
    RequestError,
    UnsupportedModelError,
    WeightsError,
)

TEXT = "we search <search> the quick brown fox </search> and <answer> the lazy dog </answer>\n"
PADDING = 7  # rows of the vocabulary that no token uses
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "initializer_range": 0.2,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [TEXT] * 2,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<|end|>"],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")


def make_model(
    kind: str, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """Return a random model; equal arguments give equal weights."""
    vocabulary = len(tokenizer) + PADDING
    model: PreTrainedModel
    with torch.random.fork_rng():
        torch.manual_seed(7)
        if kind == "qwen3":
            model = Qwen3ForCausalLM(
                Qwen3Config(**SHAPE, vocab_size=vocabulary, num_key_value_heads=2, head_dim=8)
            )
        elif kind == "llama":
            model = LlamaForCausalLM(
                LlamaConfig(
                    **SHAPE, vocab_size=vocabulary, num_key_value_heads=1, tie_word_embeddings=True
                )
            )
        elif kind == "granite":  # scales queries and logits in its own way
            model = GraniteForCausalLM(
                GraniteConfig(
                    **SHAPE,
                    vocab_size=vocabulary,
                    num_key_value_heads=2,
                    attention_multiplier=0.9,
                    logits_scaling=2.0,
                )
            )
        else:
            model = GPT2LMHeadModel(
                GPT2Config(**SHAPE, vocab_size=vocabulary, n_inner=48, embd_pdrop=0.5)
            )
    return model.to(dtype).eval()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return make_model("qwen3", tokenizer)


def finish(engine: TransformersEngine, requests: Sequence[Request]) -> dict[Any, Completion]:
    """Submit and step until everything came back."""
    engine.submit(requests)
    done: dict[Any, Completion] = {}
    for _ in range(10_000):
        if len(done) == len(requests):
            return done
        done |= {completion.key: completion for completion in engine.step()}
    raise AssertionError("the engine lost a request")


def contexts(tokenizer: PreTrainedTokenizerBase, n: int, longest: int = 40) -> list[list[int]]:
    """Return contexts of different lengths, of ids that no text would be encoded to."""
    draw = random.Random(3)
    return [
        [draw.randrange(1, len(tokenizer)) for _ in range(draw.randint(1, longest))]
        for _ in range(n)
    ]


def reference_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context: list[int],
    sampled: list[int],
    temperature: float,
) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([context + sampled])).logits[0, len(context) - 1 : -1]
    logprobs = (logits[:, : len(tokenizer)] / (temperature or 1.0)).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(sampled)[:, None])[:, 0]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "granite", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_greedy_equals_generate(
    tokenizer: PreTrainedTokenizerBase, kind: str, dtype: torch.dtype
) -> None:
    model = make_model(kind, tokenizer, dtype)
    prompts = contexts(tokenizer, 6)
    done = finish(
        TransformersEngine(model, tokenizer),
        [
            Request(i, ids, seed=0, max_new_tokens=25, temperature=0)
            for i, ids in enumerate(prompts)
        ],
    )
    for i, ids in enumerate(prompts):
        expected = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=25,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=list(range(len(tokenizer), len(tokenizer) + PADDING)),
        )
        assert done[i].ids == expected[0, len(ids) :].tolist()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "granite", "gpt2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_logprobs_equal_full_forward(
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    dtype: torch.dtype,
    tolerance: float,
    temperature: float,
) -> None:
    model = make_model(kind, tokenizer, dtype)
    prompts = contexts(tokenizer, 5)
    done = finish(
        TransformersEngine(model, tokenizer, max_batch=3),
        [Request(i, ids, i, 20, temperature) for i, ids in enumerate(prompts)],
    )
    for i, ids in enumerate(prompts):
        expected = reference_logprobs(model, tokenizer, ids, done[i].ids, temperature)
        torch.testing.assert_close(
            torch.tensor(done[i].logprobs, dtype=torch.float64),
            expected.double(),
            atol=tolerance,
            rtol=0,
        )


def test_bfloat16_samples_close_to_its_own_forward(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("qwen3", tokenizer, torch.bfloat16)
    prompt = contexts(tokenizer, 1)[0]
    done = finish(TransformersEngine(model, tokenizer), [Request("a", prompt, 1, 20)])["a"]
    expected = reference_logprobs(model, tokenizer, prompt, done.ids, 1.0).float()
    torch.testing.assert_close(torch.tensor(done.logprobs), expected, atol=0.25, rtol=0)


def test_result_does_not_depend_on_batch_or_order(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    requests = [
        Request(i, ids, seed=100 + i, max_new_tokens=5 + i, temperature=0.5 * (i % 3))
        for i, ids in enumerate(contexts(tokenizer, 9))
    ]
    alone = {}
    for request in requests:
        alone |= finish(TransformersEngine(model, tokenizer, cache_bytes=0), [request])
    for max_batch in (1, 4, 64):
        shuffled = random.Random(max_batch).sample(requests, len(requests))
        together = finish(TransformersEngine(model, tokenizer, max_batch=max_batch), shuffled)
        for key, completion in alone.items():
            assert together[key].ids == completion.ids
            assert together[key].logprobs == pytest.approx(completion.logprobs, abs=1e-10)


def test_seed_decides(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    engine = TransformersEngine(model, tokenizer)
    prompt = contexts(tokenizer, 1)[0]
    requests = [Request(i, prompt, seed, 12) for i, seed in enumerate([5, 5, 6, 2**64 - 1])]
    done = finish(engine, requests)
    assert done[0] == Completion(0, done[1].ids, done[1].logprobs, done[1].text, done[1].finish)
    assert len({tuple(done[i].ids) for i in range(4)}) == 3


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


def test_identical_prompts_are_prefilled_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer)
    prompt = contexts(tokenizer, 1)[0] + list(range(40, 70))
    n = len(prompt)
    requests = [Request(i, prompt, seed=i, max_new_tokens=6) for i in range(5)]
    done = finish(engine, requests)
    # One row computes the prompt; the others take all of it but the token that gives logits.
    assert (engine.stats.prefilled, engine.stats.reused) == (n + 4, 4 * (n - 1))
    assert engine.stats.sampled == sum(len(completion.ids) for completion in done.values())
    for request in requests:
        cold = finish(TransformersEngine(model, tokenizer, cache_bytes=0), [request])
        assert done[request.key].ids == cold[request.key].ids


def test_shared_instructions_are_prefilled_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer)
    instructions = list(range(40, 70))
    requests = [Request(i, [*instructions, 100 + i, 5, 6], i, 4) for i in range(6)]
    done = finish(engine, requests)
    assert engine.stats.prefilled == 33 + 5 * 3
    for request in requests:
        cold = finish(TransformersEngine(model, tokenizer, cache_bytes=0), [request])
        assert done[request.key].ids == cold[request.key].ids


def test_turns_and_forks_reuse_their_prefix_and_equal_a_cold_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer, max_batch=4)
    prompt = list(range(50, 80))
    first = finish(engine, [Request(("turn", 0), prompt, 1, 10, 1.3)])["turn", 0]
    inserted = [9, 8, 7]
    second = [*prompt, *first.ids, *inserted]
    before = engine.stats.prefilled
    requests = [
        Request(("turn", 1), second, 2, 10, 1.3),
        Request(("fork", 0), prompt, 3, 10, 1.3),
        Request(("fork", 1), second, 4, 10, 1.3),
    ]
    done = finish(engine, requests)
    # The follow-up computes the last sampled token and the inserted ones; the fork of the root
    # one token; the fork beside the follow-up the same four, because four are not worth a wait.
    assert engine.stats.prefilled - before == 4 + 1 + 4
    for request in requests:
        cold = finish(TransformersEngine(model, tokenizer, cache_bytes=0), [request])[request.key]
        assert done[request.key].ids == cold.ids
        assert done[request.key].logprobs == pytest.approx(cold.logprobs, abs=1e-10)


def test_cold_engine_reuses_nothing_after_a_row_is_gone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer, cache_bytes=0)
    for seed in range(2):
        finish(engine, [Request(seed, [4, 5, 6], seed, 3)])
    assert (engine.stats.prefilled, engine.stats.reused) == (6, 0)


def test_turn_continues_where_it_was_cut(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Sampled ids go back in as they came out: no text in between could change them."""
    prompt = contexts(tokenizer, 1)[0]
    engine = TransformersEngine(model, tokenizer)
    whole = finish(engine, [Request(0, prompt, 0, 30, 0.0)])[0]
    cut = finish(engine, [Request(1, prompt, 0, 11, 0.0)])[1]
    rest = finish(engine, [Request(2, prompt + cut.ids, 0, 19, 0.0)])[2]
    assert whole.ids == cut.ids + rest.ids
    assert (whole.finish, cut.finish) == ("length", "length")
    assert whole.text == tokenizer.decode(whole.ids, skip_special_tokens=True)


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


def test_stop_string_ends_the_turn_at_its_first_complete_occurrence(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Every short piece of a sampled text is used as a stop string, at all token borders."""
    prompt = contexts(tokenizer, 1)[0]
    free = finish(TransformersEngine(model, tokenizer), [Request(0, prompt, 11, 40)])[0]
    texts = [tokenizer.decode(free.ids[:k], skip_special_tokens=True) for k in range(41)]
    stops = sorted({free.text[i:j] for i in range(len(free.text)) for j in range(i + 1, i + 5)})
    done = finish(
        TransformersEngine(model, tokenizer),
        [Request(stop, prompt, 11, 40, stop=("never seen", stop)) for stop in stops],
    )
    assert {len(done[stop].ids) for stop in stops} > {2, 10, 30}
    inside = 0
    for stop in stops:
        length = next(k for k in range(41) if stop in texts[k])
        assert done[stop].ids == free.ids[:length]
        assert (done[stop].finish, done[stop].text) == ("stop", texts[length])
        inside += not done[stop].text.endswith(stop)
    assert inside > 0  # the last token may carry characters behind the stop string


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


def test_stop_strings_differ_per_row(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt = contexts(tokenizer, 1)[0]
    engine = TransformersEngine(model, tokenizer)
    free = finish(engine, [Request(0, prompt, 11, 20)])[0]
    stop = (tokenizer.decode(free.ids[3:5]),)
    done = finish(engine, [Request(1, prompt, 11, 20, stop=stop), Request(2, prompt, 11, 20)])
    assert (done[1].finish, done[2].finish) == ("stop", "length")
    assert len(done[1].ids) <= 5
    assert done[2].ids == free.ids


def test_end_token_ends_the_turn_and_belongs_to_it(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("qwen3", tokenizer)
    prompt = contexts(tokenizer, 1)[0]
    free = finish(TransformersEngine(model, tokenizer), [Request(0, prompt, 2, 20)])[0]
    assert free.finish == "length"
    end = free.ids[6]
    model.generation_config.eos_token_id = [0, end]
    done = finish(TransformersEngine(model, tokenizer), [Request(0, prompt, 2, 20)])[0]
    assert done.ids == free.ids[: free.ids.index(end) + 1]
    assert done.finish == "eos"


def test_padded_vocabulary_is_never_sampled(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("qwen3", tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] *= 100.0
    prompt = contexts(tokenizer, 1)[0]
    requests = [Request(seed, prompt, seed, 20, temperature=seed % 2) for seed in range(8)]
    done = finish(TransformersEngine(model, tokenizer), requests)
    assert max(max(completion.ids) for completion in done.values()) < len(tokenizer)


def test_ids_that_the_tokenizer_skips_are_never_sampled() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 5}, unk_token="a"))
    gaps = PreTrainedTokenizerFast(tokenizer_object=words)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen3Config(**SHAPE, vocab_size=9, num_key_value_heads=2)
        model = Qwen3ForCausalLM(config)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    done = finish(TransformersEngine(model, gaps), [Request(i, [1], i, 40, 9.0) for i in range(4)])
    assert {token for completion in done.values() for token in completion.ids} == {0, 1, 5}


def test_new_weights_forget_old_keys_and_values(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("llama", tokenizer)
    other = {name: 1.5 * tensor for name, tensor in model.state_dict().items()}
    requests = [Request(i, ids, i, 8) for i, ids in enumerate(contexts(tokenizer, 3))]
    engine = TransformersEngine(model, tokenizer)
    old = finish(engine, requests)
    reused = engine.stats.reused
    engine.load_weights(other)
    new = finish(engine, requests)
    assert engine.stats.reused == reused
    fresh = make_model("llama", tokenizer)
    fresh.load_state_dict(other)
    assert new == finish(TransformersEngine(fresh, tokenizer), requests)
    assert new != old


def test_own_weights_and_tied_weights_are_accepted(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("llama", tokenizer)
    engine = TransformersEngine(model, tokenizer)
    finish(engine, [Request(0, [4, 5, 6, 7], 0, 3)])
    engine.load_weights(model.state_dict())
    state = model.state_dict()
    del state["lm_head.weight"]  # the embedding under its other name
    engine.load_weights(state)
    finish(engine, [Request(0, [4, 5, 6, 7], 0, 3)])
    assert engine.stats.reused == 0  # stale even if the tensors are the same memory


def test_unfitting_weights_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("qwen3", tokenizer)
    engine = TransformersEngine(model, tokenizer)
    name = "model.norm.weight"
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"missing \['{name}'\]"):
        engine.load_weights({key: tensor for key, tensor in state.items() if key != name})
    with pytest.raises(WeightsError, match=r"unexpected \['extra'\]"):
        engine.load_weights(state | {"extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match=rf"of another shape \['{name}'\]"):
        engine.load_weights(state | {name: torch.zeros(3)})


def test_weights_cannot_change_under_a_running_request(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer)
    engine.submit([Request(0, [4, 5], 0, 3)])
    with pytest.raises(EngineBusyError, match="1 unfinished"):
        engine.load_weights(model.state_dict())
    engine.step()
    with pytest.raises(EngineBusyError, match="1 unfinished"):
        engine.load_weights(model.state_dict())
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


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ids": []}, "at least one context token"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
        ({"max_new_tokens": 158}, "at most 160 positions, found 3 context \\+ 158 new"),
        ({"ids": [1, 10_000, 2]}, "ids in \\[0, "),
        ({"ids": [1, -1, 2]}, "ids in \\[0, "),
        ({"temperature": -0.5}, "temperature >= 0"),
        ({"temperature": float("nan")}, "temperature >= 0"),
        ({"seed": 2**64}, "a seed in"),
        ({"stop": ("a", "")}, "non-empty stop strings"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_queued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    change: dict[str, Any],
    problem: str,
) -> None:
    engine = TransformersEngine(model, tokenizer)
    fields: dict[str, Any] = {"key": "bad", "ids": [1, 2, 3], "seed": 0, "max_new_tokens": 4}
    with pytest.raises(RequestError, match=problem):
        engine.submit([Request("good", [1, 2, 3], 0, 4), Request(**(fields | change))])
    assert engine.step() == []


def test_request_may_fill_the_model_to_its_last_position(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer)
    done = finish(engine, [Request(0, [4] * 150, 0, 10), Request(1, [5] * 159, 0, 1)])
    assert (len(done[0].ids), len(done[1].ids)) == (10, 1)


def test_keys_must_differ_while_unfinished(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    engine = TransformersEngine(model, tokenizer)
    with pytest.raises(RequestError, match="'a' twice"):
        engine.submit([Request("a", [4], 0, 1), Request("a", [5], 0, 1)])
    finish(engine, [Request("a", [4], 0, 1)])
    finish(engine, [Request("a", [4], 0, 1)])


def test_diverged_weights_are_reported(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model("qwen3", tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = torch.nan
    engine = TransformersEngine(model, tokenizer)
    engine.submit([Request(0, [4, 5], 0, 4), Request(1, [4, 9], 0, 4)])
    with pytest.raises(NonFiniteLogitsError, match=r"rows \[1\]"):
        engine.step()


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
