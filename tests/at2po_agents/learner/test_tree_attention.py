from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name torch's own documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask

from at2po_agents.learner import tree_attention as attention
from at2po_agents.learner.logprobs import token_logprobs
from at2po_agents.learner.packing import pack
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.samples import random_tree, tiny_model

seeds = st.integers(0, 2**32)
CPU = torch.device("cpu")


def seen(trees: list[RolloutTree]) -> Tensor:
    """[U, U] whether a token sees another one, read off the rows of the trees."""
    places: dict[tuple[int, int], int] = {}
    paths = []
    for tree in trees:
        for leaf in sorted(tree.leaves(), key=lambda leaf: leaf.key):
            path = [
                places.setdefault((id(node), number), len(places))
                for node in leaf.path()
                for number in range(len(node.sampled) + len(node.inserted))
            ]
            paths.append(path)
    mask = torch.zeros(len(places), len(places), dtype=torch.bool)
    for path in paths:
        for depth, place in enumerate(path):
            mask[place, path[: depth + 1]] = True
    return mask


def of_spans(spans: attention.Spans) -> Tensor:
    """[U, U] who sees whom according to spans; a pair that came twice would be an error."""
    size = max(end for _, _, end in spans)
    count = torch.zeros(size, size, dtype=torch.int64)
    for start, stop, end in spans:
        count[start:stop, start:stop] += torch.ones(stop - start, stop - start).long().tril()
        count[stop:end, start:stop] += 1
    assert count.max() == 1
    return count.bool()


@settings(max_examples=40)
@given(seeds, seeds)
def test_a_token_sees_its_path_and_nothing_else(one: int, two: int) -> None:
    trees = [random_tree(one, size=12), random_tree(two)]
    spans = pack(trees).pattern
    assert not isinstance(spans, BlockMask)
    assert torch.equal(of_spans(spans), seen(trees))


def dense(trees: list[RolloutTree], heads: tuple[Tensor, ...]) -> Tensor:
    """The same attention with a mask of all pairs."""
    return F.scaled_dot_product_attention(
        *heads, attn_mask=seen(trees), scale=0.4, enable_gqa=True
    ).transpose(1, 2)


def assert_same_gradients(ours: Tensor, theirs: Tensor, heads: tuple[Tensor, ...]) -> None:
    weight = torch.linspace(-1, 2, ours.numel(), dtype=ours.dtype).view_as(ours)
    for one, two in zip(
        torch.autograd.grad((ours * weight).sum(), heads),
        torch.autograd.grad((theirs * weight).sum(), heads),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


def attend(pattern: attention.Pattern, heads: tuple[Tensor, ...]) -> Tensor:
    out, weights = attention._attend(nn.Identity(), *heads, None, tree=pattern, scaling=0.4)
    assert weights is None
    return out


def random_heads(size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Queries of 4 heads, keys and values of 2."""
    numbers = torch.Generator().manual_seed(size)
    return tuple(
        torch.randn(1, count, size, 8, generator=numbers, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for count in (4, 2, 2)
    )


@settings(max_examples=25)
@given(seeds)
def test_output_and_gradient_are_those_of_a_dense_mask(seed: int) -> None:
    trees = [random_tree(seed, size=12), random_tree(seed + 1)]
    packed = pack(trees)
    heads = random_heads(packed.ids.numel())
    ours = attend(packed.pattern, heads)
    theirs = dense(trees, heads)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert_same_gradients(ours, theirs, heads)


def test_softmax_of_bfloat16_is_summed_in_float32() -> None:
    """Rounding each of many equal weights to bfloat16 would lose their sum."""
    size = 3000
    heads = random_heads(size, torch.bfloat16)
    with torch.no_grad():
        heads[2].fill_(1.0)
        ends = np.full(size, size)
        ends[1000:2000] = 2000
        out = attend(attention.pattern(ends, CPU), heads)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, torch.ones_like(out))


@pytest.fixture
def flexible(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention on the CPU, uncompiled: its own reference implementation."""
    monkeypatch.setattr(attention, "_FLEX", {"cpu"})


needs_no_speed = pytest.mark.filterwarnings("ignore:.*flex_attention called without.*")


@needs_no_speed
def test_flex_attention_gives_the_same_output(
    flexible: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = [random_tree(0, size=20, longest=30), random_tree(1)]
    packed = pack(trees)
    assert isinstance(packed.pattern, BlockMask)
    heads = tuple(x.detach() for x in random_heads(packed.ids.numel()))
    torch.testing.assert_close(
        attend(packed.pattern, heads), dense(trees, heads), rtol=0, atol=1e-12
    )
    model = tiny_model(kv_heads=2)
    with torch.no_grad():
        ours = token_logprobs(model, packed)
    monkeypatch.setattr(attention, "_FLEX", set())
    torch.testing.assert_close(ours, token_logprobs(model, pack(trees)), rtol=0, atol=1e-9)


@needs_no_speed
@pytest.mark.slow
def test_flex_attention_gives_the_same_gradient(
    flexible: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch refuses gradients of FlexAttention on CPUs, but its reference implementation has them.
    monkeypatch.setattr(flex, "_validate_device", lambda *heads: None)
    trees = [random_tree(0, size=20, longest=30)]
    packed = pack(trees)
    heads = random_heads(packed.ids.numel())
    assert_same_gradients(attend(packed.pattern, heads), dense(trees, heads), heads)
