"""What holds for every engine; the tests of each engine inherit it.

A test module that imports `EngineContract` defines three fixtures: `tokenizer` is what
`make_tokenizer` makes, `model` a "qwen3" of `make_model` in the engine's most exact format, and
`make` a function `(model, tokenizer, **options) -> Engine`. An engine may end as soon as the next
one is made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from at2po_agents.engines import Completion, Engine, Request, TransformersEngine
from at2po_agents.errors import (
    EngineBusyError,
    NonFiniteLogitsError,
    RequestError,
    WeightsError,
)
from at2po_agents.policy.encoding import encode_prompt
from at2po_agents.rollout.environments import make_env

TEXT = "we search <search> the quick brown fox </search> and <answer> the lazy dog </answer>\n"
PADDING = 7  # rows of the vocabulary that no token uses
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "initializer_range": 0.1,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
}

MODELS: dict[str, Callable[..., PretrainedConfig]] = {
    "qwen3": partial(Qwen3Config, **SHAPE, num_key_value_heads=2, head_dim=32),
    "llama": partial(LlamaConfig, **SHAPE, num_key_value_heads=1, tie_word_embeddings=True),
    # Scales queries and logits in its own way.
    "granite": partial(
        GraniteConfig, **SHAPE, num_key_value_heads=2, attention_multiplier=0.9, logits_scaling=2.0
    ),
    "gpt2": partial(GPT2Config, **SHAPE, n_inner=48, embd_pdrop=0.5),
}

Make = Callable[..., Engine]


def make_tokenizer() -> PreTrainedTokenizerBase:
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
    with torch.random.fork_rng():
        torch.manual_seed(7)
        build: Any = AutoModelForCausalLM.from_config
        model: PreTrainedModel = build(MODELS[kind](vocab_size=len(tokenizer) + PADDING))
    return model.to(dtype).eval()


def finish(engine: Engine, requests: Sequence[Request]) -> dict[Any, Completion]:
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
    context: Sequence[int],
    sampled: list[int],
    temperature: float,
) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *sampled]])).logits[0, len(context) - 1 : -1]
    logprobs = (logits[:, : len(tokenizer)] / (temperature or 1.0)).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(sampled)[:, None])[:, 0]


def check_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    done: dict[Any, Completion],
    close: float,
) -> None:
    """Compare what an engine says of its samples with the model's own forward pass."""
    for request in requests:
        turn = done[request.key]
        expected = reference_logprobs(
            model, tokenizer, request.ids, turn.ids, request.temperature
        ).double()
        found = torch.tensor(turn.logprobs, dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=close, rtol=0)


def check_as_transformers(
    engine: Engine, model: PreTrainedModel, tokenizer: Any, requests: Sequence[Request]
) -> dict[Any, Completion]:
    """Compare what an engine writes with what the transformers engine does; return it."""
    ours, theirs = finish(TransformersEngine(model, tokenizer), requests), finish(engine, requests)
    for key, done in ours.items():
        found = theirs[key]
        assert (found.ids, found.text, found.finish) == (done.ids, done.text, done.finish)
        assert found.logprobs == pytest.approx(done.logprobs, abs=1e-4)
    return theirs


def change_weights(model: PreTrainedModel) -> None:
    """Move all weights of a model: none may stay behind."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            weight += 0.05 * weight.std() * torch.randn_like(weight)


def miniwiki_requests(tokenizer: Any, **fields: Any) -> list[Request]:
    """Return the first turns of 24 questions about the mini model's world."""
    env = make_env("at2po/MiniWiki-v0", {"questions": 24, "seed": 5})
    stop = env.core.dialect.stop
    prompts = [encode_prompt(tokenizer, env.core.begin(question)[1]) for question in env.questions]
    return [Request(i, ids, i, 80, stop=stop, **fields) for i, ids in enumerate(prompts)]


class EngineContract:
    """Tests of an engine on random models; `tolerances` are of logprobs, by number format."""

    tolerances: ClassVar[dict[torch.dtype, float]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", self.tolerances)

    @property
    def best(self) -> torch.dtype:
        """The most exact format that the engine has."""
        return min(self.tolerances, key=lambda dtype: self.tolerances[dtype])

    @property
    def tolerance(self) -> float:
        return self.tolerances[self.best]

    @pytest.fixture
    def engine(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> Engine:
        return make(model, tokenizer)

    @pytest.mark.parametrize("kind", MODELS)
    def test_greedy_equals_generate(
        self, tokenizer: PreTrainedTokenizerBase, make: Make, kind: str, dtype: torch.dtype
    ) -> None:
        model = make_model(kind, tokenizer, dtype)
        prompts = contexts(tokenizer, 6)
        done = finish(
            make(model, tokenizer),
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

    @pytest.mark.parametrize("kind", MODELS)
    def test_logprobs_equal_full_forward(
        self,
        tokenizer: PreTrainedTokenizerBase,
        make: Make,
        kind: str,
        dtype: torch.dtype,
    ) -> None:
        model = make_model(kind, tokenizer, dtype)
        requests = [
            Request((i, temperature), ids, i, 20, temperature)
            for i, ids in enumerate(contexts(tokenizer, 5))
            for temperature in (0.0, 0.6, 1.0)
        ]
        done = finish(make(model, tokenizer, max_batch=3), requests)
        check_logprobs(model, tokenizer, requests, done, self.tolerances[dtype])

    def test_bfloat16_samples_close_to_its_own_forward(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("qwen3", tokenizer, torch.bfloat16)
        requests = [Request("a", contexts(tokenizer, 1)[0], 1, 20)]
        check_logprobs(model, tokenizer, requests, finish(make(model, tokenizer), requests), 0.25)

    def test_result_does_not_depend_on_batch_or_order(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        requests = [
            Request(i, ids, seed=100 + i, max_new_tokens=5 + i, temperature=0.5 * (i % 3))
            for i, ids in enumerate(contexts(tokenizer, 9))
        ]
        alone, engine = {}, make(model, tokenizer)
        for request in requests:
            alone |= finish(engine, [request])
            engine.load_weights(model.state_dict())  # forgets its prefixes
        for max_batch in (1, 4, 64):
            shuffled = random.Random(max_batch).sample(requests, len(requests))
            together = finish(make(model, tokenizer, max_batch=max_batch), shuffled)
            for key, completion in alone.items():
                assert together[key].ids == completion.ids
                assert together[key].logprobs == pytest.approx(
                    completion.logprobs, abs=self.tolerance
                )

    def test_seed_decides(self, engine: Engine, tokenizer: PreTrainedTokenizerBase) -> None:
        prompt = contexts(tokenizer, 1)[0]
        requests = [Request(i, prompt, seed, 12) for i, seed in enumerate([5, 5, 6, 2**64 - 1])]
        done = finish(engine, requests)
        assert done[0] == Completion(0, done[1].ids, done[1].logprobs, done[1].text, done[1].finish)
        assert len({tuple(done[i].ids) for i in range(4)}) == 3

    def test_turns_and_forks_reuse_their_prefix_and_equal_a_cold_engine(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        engine = make(model, tokenizer, max_batch=4)
        prompt = list(range(30, 110))
        first = finish(engine, [Request(("turn", 0), prompt, 1, 10, 1.3)])["turn", 0]
        second = [*prompt, *first.ids, 9, 8, 7]
        requests = [
            Request(("turn", 1), second, 2, 10, 1.3),
            Request(("fork", 0), prompt, 3, 10, 1.3),
            Request(("fork", 1), second, 4, 10, 1.3),
        ]
        done = finish(engine, requests)
        stats = engine.stats
        assert stats.reused >= 3 * 64  # an engine may reuse in blocks
        assert stats.reused + stats.prefilled == 2 * len(prompt) + 2 * len(second)
        assert stats.sampled == len(first.ids) + sum(len(done[r.key].ids) for r in requests)
        for request in requests:
            cold = finish(make(model, tokenizer), [request])[request.key]
            assert done[request.key].ids == cold.ids
            assert done[request.key].logprobs == pytest.approx(cold.logprobs, abs=self.tolerance)

    def test_turn_continues_where_it_was_cut(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Sampled ids go back in as they came out: no text in between could change them."""
        prompt = contexts(tokenizer, 1)[0]
        whole = finish(engine, [Request(0, prompt, 0, 30, 0.0)])[0]
        cut = finish(engine, [Request(1, prompt, 0, 11, 0.0)])[1]
        rest = finish(engine, [Request(2, prompt + cut.ids, 0, 19, 0.0)])[2]
        assert whole.ids == cut.ids + rest.ids
        assert (whole.finish, cut.finish) == ("length", "length")
        assert whole.text == tokenizer.decode(whole.ids, skip_special_tokens=True)

    def test_stop_string_ends_the_turn_at_its_first_complete_occurrence(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        """Every short piece of a sampled text is used as a stop string, at all token borders."""
        prompt = contexts(tokenizer, 1)[0]
        free = finish(make(model, tokenizer), [Request(0, prompt, 11, 40)])[0]
        texts = [tokenizer.decode(free.ids[:k], skip_special_tokens=True) for k in range(41)]
        stops = sorted({free.text[i:j] for i in range(len(free.text)) for j in range(i + 1, i + 5)})
        done = finish(
            make(model, tokenizer),
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

    def test_end_token_ends_the_turn_and_belongs_to_it(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("qwen3", tokenizer, self.best)
        prompt = contexts(tokenizer, 1)[0]
        free = finish(make(model, tokenizer), [Request(0, prompt, 2, 20)])[0]
        assert free.finish == "length"
        end = free.ids[6]
        model.generation_config.eos_token_id = [0, end]
        done = finish(make(model, tokenizer), [Request(0, prompt, 2, 20)])[0]
        assert done.ids == free.ids[: free.ids.index(end) + 1]
        assert done.finish == "eos"

    def test_the_templates_end_of_turn_ends_the_turn(self, make: Make) -> None:
        """Though neither the model nor its tokenizer calls it the end of a text."""
        tokenizer = make_tokenizer()
        model = make_model("qwen3", tokenizer, self.best)
        prompt = contexts(tokenizer, 1)[0]
        free = finish(make(model, tokenizer), [Request(0, prompt, 2, 20)])[0]
        end = free.ids[6]
        mark = tokenizer.convert_ids_to_tokens(end)
        tokenizer.add_special_tokens({"additional_special_tokens": [mark]})
        tokenizer.chat_template = (
            "{% for message in messages %}{{ message.content + '" + mark + "' }}{% endfor %}"
        )
        done = finish(make(model, tokenizer), [Request(0, prompt, 2, 20)])[0]
        assert done.ids == free.ids[: free.ids.index(end) + 1]
        assert done.finish == "eos"

    def test_padded_vocabulary_is_never_sampled(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("qwen3", tokenizer, self.best)
        with torch.no_grad():
            model.get_output_embeddings().weight[len(tokenizer) :] *= 100.0
        prompt = contexts(tokenizer, 1)[0]
        requests = [Request(seed, prompt, seed, 20, temperature=seed % 2) for seed in range(8)]
        done = finish(make(model, tokenizer), requests)
        assert max(max(completion.ids) for completion in done.values()) < len(tokenizer)

    def test_ids_that_the_tokenizer_skips_are_never_sampled(self, make: Make) -> None:
        words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 5}, unk_token="a"))
        gaps = PreTrainedTokenizerFast(tokenizer_object=words)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = Qwen3Config(**SHAPE, vocab_size=9, num_key_value_heads=2)
            model = Qwen3ForCausalLM(config)
        model.config.eos_token_id = model.generation_config.eos_token_id = None
        done = finish(make(model, gaps), [Request(i, [1], i, 40, 2.0) for i in range(4)])
        assert {token for completion in done.values() for token in completion.ids} == {0, 1, 5}

    def test_new_weights_forget_old_keys_and_values(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("llama", tokenizer, self.best)
        other = {name: 1.5 * tensor for name, tensor in model.state_dict().items()}
        requests = [Request(i, ids, i, 8) for i, ids in enumerate(contexts(tokenizer, 3, 100))]
        engine = make(model, tokenizer)
        finish(engine, requests)
        old = finish(engine, requests)
        reused = engine.stats.reused
        assert reused > 0
        engine.load_weights(other)
        new = finish(engine, requests)
        assert engine.stats.reused == reused
        fresh = make_model("llama", tokenizer, self.best)
        fresh.load_state_dict(other)
        assert new == finish(make(fresh, tokenizer), requests)
        assert new != old

    def test_own_weights_and_tied_weights_are_accepted(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("llama", tokenizer, self.best)
        engine = make(model, tokenizer)
        request = Request(0, list(range(4, 100)), 0, 3)
        done = finish(engine, [request])
        state = model.state_dict()
        for name in ("lm_head.weight", "model.embed_tokens.weight"):  # one tensor, two names
            engine.load_weights({key: t for key, t in state.items() if key != name})
            assert finish(engine, [request]) == done
        engine.load_weights(state)
        assert finish(engine, [request]) == done
        assert engine.stats.reused == 0  # stale even if the tensors are the same memory

    def test_unfitting_weights_are_refused(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("qwen3", tokenizer, self.best)
        engine = make(model, tokenizer)
        name = "model.norm.weight"
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(WeightsError, match=rf"missing \['{name}'\]"):
            engine.load_weights({key: tensor for key, tensor in state.items() if key != name})
        with pytest.raises(WeightsError, match=r"unexpected \['extra'\]"):
            engine.load_weights(state | {"extra": torch.zeros(1)})
        with pytest.raises(WeightsError, match=rf"of another shape \['{name}'\]"):
            engine.load_weights(state | {name: torch.zeros(3)})

    def test_weights_cannot_change_under_a_running_request(
        self, engine: Engine, model: PreTrainedModel
    ) -> None:
        engine.submit([Request(0, [4, 5], 0, 3)])
        with pytest.raises(EngineBusyError, match="1 unfinished"):
            engine.load_weights(model.state_dict())
        engine.step()
        with pytest.raises(EngineBusyError, match="1 unfinished"):
            engine.load_weights(model.state_dict())
        with pytest.raises(EngineBusyError, match="1 unfinished"):
            engine.sleep()
        while not engine.step():
            pass
        engine.load_weights(model.state_dict())
        assert engine.step() == []

    def test_loading_weights_ends_the_sleep(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("llama", tokenizer, self.best)
        request = Request(0, list(range(4, 100)), 0, 8)
        engine = make(model, tokenizer)
        awake = finish(engine, [request])
        for _ in range(2):
            engine.sleep()
            engine.sleep()
            engine.load_weights(model.state_dict())
            assert finish(engine, [request]) == awake
        assert engine.stats.reused == 0

    def test_closing_drops_all_requests(self, engine: Engine) -> None:
        engine.submit([Request(0, [4, 5], 0, 3)])
        engine.step()
        engine.close()
        assert engine.step() == []
        engine.close()

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
        self, engine: Engine, change: dict[str, Any], problem: str
    ) -> None:
        fields: dict[str, Any] = {"key": "bad", "ids": [1, 2, 3], "seed": 0, "max_new_tokens": 4}
        with pytest.raises(RequestError, match=problem):
            engine.submit([Request("good", [1, 2, 3], 0, 4), Request(**(fields | change))])
        assert engine.step() == []

    def test_request_may_fill_the_model_to_its_last_position(self, engine: Engine) -> None:
        assert engine.max_length == 160
        done = finish(engine, [Request(0, [4] * 150, 0, 10), Request(1, [5] * 159, 0, 1)])
        assert (len(done[0].ids), len(done[1].ids)) == (10, 1)

    def test_keys_must_differ_while_unfinished(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="'a' twice"):
            engine.submit([Request("a", [4], 0, 1), Request("a", [5], 0, 1)])
        finish(engine, [Request("a", [4], 0, 1)])
        finish(engine, [Request("a", [4], 0, 1)])

    def test_diverged_weights_are_reported(
        self, tokenizer: PreTrainedTokenizerBase, make: Make
    ) -> None:
        model = make_model("qwen3", tokenizer, self.best)
        with torch.no_grad():
            model.get_input_embeddings().weight[9] = torch.nan
        engine = make(model, tokenizer)
        engine.submit([Request(0, [4, 5], 0, 4), Request(1, [4, 9], 0, 4)])
        with pytest.raises(NonFiniteLogitsError, match="finite logits"):
            engine.step()
