"""The memory plan against what a real learner holds and what torch keeps for backward passes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from at2po_agents.algorithms import ATPO
from at2po_agents.doctor.memory.estimate import estimates
from at2po_agents.doctor.memory.learner_terms import (
    ROW_BYTES,
    end_bytes,
    gradient_bytes,
    input_bytes,
    layer_parts,
    learner_terms,
)
from at2po_agents.doctor.memory.plan import Plan
from at2po_agents.doctor.memory.terms import LOGIT_BYTES
from at2po_agents.learner import tree_attention as attention
from at2po_agents.learner.logprobs import LOGITS_AT_ONCE, token_logprobs
from at2po_agents.learner.packing import Pack, pack
from at2po_agents.learner.tree_attention import tree_attention
from at2po_agents.policy.loading import load_model
from at2po_agents.policy.sizes import SIZES, Decoder
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.samples import StepLearner, random_tree

TOLERANCE = 0.02
"""Share by which what torch keeps may differ from the formula, which leaves out single numbers."""
PEAK_TOLERANCE = 0.1
"""Share by which the peak of a backward pass may differ: kernels need memory of their own, too."""

LARGER = Qwen3Config(
    vocab_size=1000,
    hidden_size=192,
    intermediate_size=640,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=48,
)


def model_of(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return the embedded model or a random one that is a little larger."""
    return load_model("mini", dtype)[0] if name == "mini" else Qwen3ForCausalLM(LARGER).to(dtype)


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_learner_holds_the_bytes_of_the_plan(dtype: Any) -> None:
    model, _ = load_model("mini", getattr(torch, dtype))
    learner = StepLearner(model, algorithm=ATPO())
    gradients: list[int] = []
    learner.optimizer.register_step_pre_hook(
        lambda *unused: gradients.append(bytes_of(p.grad for p in learner.masters.parameters))
    )
    learner.update([random_tree(seed, size=12) for seed in range(3)])
    states = learner.optimizer.state.values()

    plan = Plan(gpus="1x24GB", dtype=dtype)
    (estimate,) = estimates(plan, Decoder.of(model.config))
    terms = {term.name: term.size for term in estimate.terms}
    assert terms["weights"] == bytes_of(model.parameters())
    assert terms.get("float32 masters", 0) == bytes_of(learner.masters.state())
    assert ("gradients as they come" in terms) == (dtype == "bfloat16")
    assert [terms["gradients"]] == gradients
    moments = [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
    assert terms["AdamW's moments"] == bytes_of(moments)


def trees(count: int, vocabulary: int) -> list[RolloutTree]:
    """Build trees of 640 tokens, 128 of them sampled."""
    rng = np.random.default_rng(0)

    def ids(size: int) -> list[int]:
        return rng.integers(0, vocabulary, size).tolist()

    found = []
    for number in range(count):
        tree = RolloutTree(number, ids(256))
        turn = tree.add(tree.root, sampled=ids(64), inserted=ids(256))
        for reward in (1.0, 0.0):
            tree.add(turn, sampled=ids(32), reward=reward)
        for node in tree.nodes()[1:]:
            node.logprobs, node.advantage = [-1.0] * len(node.sampled), 1.0
        found.append(tree)
    return found


class Kept:
    """Counts the memory that autograd keeps, each piece once, without the model's own weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._pieces: dict[int, Any] = {}

    @property
    def total(self) -> int:
        return sum(piece.nbytes() for piece in self._pieces.values())

    @contextmanager
    def counting(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor):
            yield

    def _save(self, tensor: Tensor) -> Tensor:
        piece = tensor.untyped_storage()
        if piece.data_ptr() not in self._own:
            self._pieces[piece.data_ptr()] = piece
        return tensor


def kept(model: PreTrainedModel, packed: Pack, checkpointing: bool) -> int:
    """Run the learner's forward pass and return the bytes that it keeps, logits apart."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    model.train(checkpointing)
    counter = Kept(model)
    with tree_attention(model), counter.counting():
        result = token_logprobs(model, packed)
    assert result.requires_grad
    # One chunk of logits is not recomputed: their log-probabilities are kept, in float32.
    logits = len(packed.predictors) * model.config.vocab_size
    assert logits <= LOGITS_AT_ONCE
    return counter.total - 4 * logits


def expected(sizes: Decoder, packed: Pack, item: int, checkpointing: bool, lora: int = 0) -> int:
    """Return what the plan says for the tokens of a pack, on a CPU."""
    per_layer = sum(layer_parts(sizes, item, lora).values())
    # Attention on a CPU keeps keys and values once per query head; on a GPU it does not.
    per_layer += 2 * item * (sizes.query_width - sizes.key_width)
    if checkpointing:
        per_layer = input_bytes(sizes, item)
    tokens, sampled = packed.ids.numel(), len(packed.predictors)
    total = tokens * (sizes.layers * per_layer + end_bytes(sizes, item, lora))
    # The plan takes every token to be one that the head predicts from, and a frozen head does not
    # keep what it got; checkpointed layers hold the rotations outside of what torch counts.
    total -= (tokens if lora else tokens - sampled) * item * sizes.hidden
    return total - (2 * item * sizes.head_dim * tokens if checkpointing else 0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "lora"), [("mini", 0), ("larger", 0), ("larger", 8)])
def test_torch_keeps_what_the_plan_says(
    name: str, lora: int, dtype: torch.dtype, checkpointing: bool
) -> None:
    model = model_of(name, dtype)
    if lora:
        peft = pytest.importorskip("peft")
        # A name that is not among the layers' is the head's, which gets no adapter.
        settings = peft.LoraConfig(r=lora, target_modules=r".*layers.*_proj")
        peft.inject_adapter_in_model(settings, model)
    sizes = Decoder.of(model.config)
    packed = pack(trees(2, sizes.vocabulary))
    measured = kept(model, packed, checkpointing)
    planned = expected(sizes, packed, dtype.itemsize, checkpointing, lora)
    # Nothing before the first adapter needs a gradient, so the first layer keeps a little less.
    assert measured == pytest.approx(planned, rel=3 * TOLERANCE if lora else TOLERANCE)


class Peak(TorchDispatchMode):
    """Watches how much memory the tensors made inside take at most."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        self.most = max(self.most, self._now)
        return result

    def _add(self, piece: torch.UntypedStorage) -> None:
        key, size = piece._cdata, piece.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self._now += size
            weakref.finalize(piece, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self._now -= size


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backward_pass_takes_what_the_plan_says(dtype: torch.dtype, checkpointing: bool) -> None:
    model = model_of("larger", dtype)
    sizes, item = Decoder.of(model.config), dtype.itemsize
    packed = pack(trees(3, sizes.vocabulary))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train(checkpointing)
    with Peak() as peak, tree_attention(model):
        token_logprobs(model, packed).sum().backward()

    planned = expected(sizes, packed, item, checkpointing=checkpointing)
    if checkpointing:
        planned += packed.ids.numel() * sum(layer_parts(sizes, item).values())
    planned += packed.ids.numel() * gradient_bytes(sizes, item)
    planned += LOGIT_BYTES // 3 * len(packed.predictors) * sizes.vocabulary  # one chunk, kept
    # Halfway through the layers half of the weights have their gradients.
    planned += sizes.parameters * item // 2
    assert peak.most == pytest.approx(planned, rel=PEAK_TOLERANCE)


def test_rows_of_a_pack_take_the_bytes_of_the_plan() -> None:
    rows = pack(trees(3, 100)).rows
    tokens = rows.mask.numel()
    tensors = [value for value in vars(rows).values() if isinstance(value, Tensor)]
    assert bytes_of(tensors) == pytest.approx(ROW_BYTES * tokens, rel=0.25)


def test_a_chunk_of_logits_takes_what_the_plan_says() -> None:
    # A wide vocabulary and few other numbers; two chunks, so that each is computed again.
    config = Qwen3Config(
        vocab_size=2**16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, head_dim=4
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    packed = pack(trees(1, 1000))
    at_once = config.vocab_size * len(packed.predictors) // 2
    with Peak() as peak, tree_attention(model):
        token_logprobs(model, packed, logits_at_once=at_once).sum().backward()
    head_gradients = 2 * 2 * config.vocab_size * config.hidden_size
    assert peak.most == pytest.approx(LOGIT_BYTES * at_once + head_gradients, rel=PEAK_TOLERANCE)


def test_a_block_mask_takes_what_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FLEX", {"cpu"})
    tokens = 1024
    plan = Plan(gpus="1x24GB", token_budget=tokens)
    with Peak() as peak:
        attention.pattern(np.full(tokens, tokens), torch.device("cpu"))
    planned = {term.name: term.size for term in learner_terms(plan, SIZES["Qwen3-4B"])}
    assert peak.most == pytest.approx(planned["block mask"], rel=PEAK_TOLERANCE)


def test_a_foreach_step_takes_what_the_plan_says() -> None:
    parameters = [torch.nn.Parameter(torch.ones(1000)) for _ in range(4)]
    # On a GPU torch takes this way by default.
    optimizer = torch.optim.AdamW(parameters, foreach=True)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        with Peak() as peak:
            optimizer.step()
    assert peak.most == pytest.approx(4 * 4 * 1000, rel=PEAK_TOLERANCE)
