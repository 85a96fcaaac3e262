from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from at2po_agents.errors import TreeError, UnsupportedModelError
from at2po_agents.learner.logprobs import flat_logprobs, token_logprobs
from at2po_agents.learner.packing import pack
from at2po_agents.learner.partition import whole
from at2po_agents.learner.tree_attention import check_model, tree_attention
from at2po_agents.tree import RolloutTree
from tests.at2po_agents.samples import flat_rows, random_tree, tiny_model

seeds = st.integers(0, 2**32)
MODELS = {
    "qwen3": tiny_model("qwen3", kv_heads=2),
    "llama": tiny_model("llama", kv_heads=1),
    "no-gqa": tiny_model("llama", kv_heads=4),
}


def empty_tree() -> RolloutTree:
    """Build a tree in which nothing was sampled."""
    tree = RolloutTree("q", [1])
    tree.add(tree.root, advantage=1.0, reward=0.0)
    return tree


def both(
    model: PreTrainedModel, trees: Sequence[RolloutTree], **options: float
) -> tuple[Tensor, Tensor]:
    """Score the sampled tokens of all rows, packed and flat."""
    packed = pack(trees, dtype=torch.float64)
    rows = packed.rows.gather(token_logprobs(model, packed, **options))[packed.rows.mask]  # type: ignore
    options.pop("logits_at_once", None)
    flat = torch.cat(flat_logprobs(model, flat_rows(trees), **options))
    return rows, flat


def gradients(model: PreTrainedModel, scores: Tensor) -> list[Tensor]:
    """Differentiate an arbitrary weighting of the scores."""
    weights = torch.linspace(-1, 2, len(scores), dtype=scores.dtype)
    loss = (weights * scores).sum()
    return list(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=25)
@given(seed=seeds, count=st.integers(1, 3))
def test_packed_equals_flat(family: str, seed: int, count: int) -> None:
    model = MODELS[family]
    packed, flat = both(model, [random_tree(seed + i) for i in range(count)], temperature=0.7)
    torch.testing.assert_close(packed, flat, rtol=0, atol=1e-9)
    for ours, reference in zip(gradients(model, packed), gradients(model, flat), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


def test_head_in_chunks_changes_nothing() -> None:
    model, tree = MODELS["qwen3"], random_tree(3, size=20)
    packed = pack([tree], dtype=torch.float64)
    whole = token_logprobs(model, packed)
    chunks = token_logprobs(model, packed, logits_at_once=7 * model.config.vocab_size)
    assert len(whole) > 7
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-12)
    for ours, reference in zip(gradients(model, chunks), gradients(model, whole), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_logits_never_stand_whole_in_memory(dtype: torch.dtype) -> None:
    model, tree = tiny_model(dtype=dtype), random_tree(3, size=20)
    at_once, sizes = 7 * model.config.vocab_size, []
    model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: sizes.append(logits.numel())
    )
    packed = pack([tree])
    scores = token_logprobs(model, packed, logits_at_once=at_once)
    scores.sum().backward()
    assert scores.dtype == torch.promote_types(dtype, torch.float32)
    assert len(sizes) == 2 * -(-len(packed.targets) // 7)  # every chunk twice
    assert max(sizes) <= at_once


@settings(max_examples=10)
@given(seed=seeds)
def test_flat_rows_are_scored_as_the_model_itself_scores_them(seed: int) -> None:
    model, rows = MODELS["llama"], random_tree(seed).rows()
    for row, scores in zip(rows, flat_logprobs(model, rows, temperature=0.7), strict=True):
        ids = torch.tensor(row.ids)
        logp = (model(input_ids=ids[None]).logits[0, :-1] / 0.7).log_softmax(-1)
        expected = logp.gather(1, ids[1:, None])[:, 0][
            torch.tensor(row.sampled[1:], dtype=torch.bool)
        ]
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)


@settings(max_examples=50)
@given(seeds, seeds)
def test_every_token_stands_once_and_rows_spell_their_paths(one: int, two: int) -> None:
    trees = [random_tree(one), random_tree(two)]
    packed = pack(trees)
    rows = packed.rows
    assert packed.ids.shape[1] == sum(tree.unique_tokens for tree in trees)
    sampled = sum(len(node.sampled) for tree in trees for node in tree.nodes())
    assert len(packed.targets) == sampled == len(rows.index[rows.mask].unique())
    assert rows.tree.tolist() == [n for n, tree in enumerate(trees) for _ in tree.leaves()]
    leaves = [leaf for tree in trees for leaf in whole(tree).leaves]
    assert rows.total_rows == len(leaves)
    assert rows.total_tokens == int(rows.mask.sum())
    for row, leaf in enumerate(leaves):
        mask = rows.mask[row]
        turns = leaf.path()[1:]
        tokens = [(t, k, n.advantage) for k, n in enumerate(turns) for t in n.sampled]
        drawn = [logprob for turn in turns for logprob in turn.logprobs]
        assert rows.behavior_logprobs is not None
        assert rows.behavior_logprobs[row, mask].tolist() == pytest.approx(drawn)
        assert not rows.behavior_logprobs[row, ~mask].any()
        assert packed.targets[rows.index[row, mask]].tolist() == [t for t, _, _ in tokens]
        assert rows.turn[row, mask].tolist() == [k for _, k, _ in tokens]
        assert rows.advantages[row, mask].tolist() == pytest.approx([a for _, _, a in tokens])
        assert rows.rewards[row] == leaf.reward
        assert not rows.advantages[row, ~mask].any()


def test_sampling_probabilities_are_known_for_all_tokens_or_not_at_all() -> None:
    tree = random_tree(5, size=20)
    tree.root.children[0].logprobs.clear()
    assert pack([tree, random_tree(6)]).rows.behavior_logprobs is None


def test_shared_prefix_is_stored_once() -> None:
    tree = RolloutTree("q", [1, 2, 3])
    shared = tree.add(tree.root, sampled=[4], inserted=[5, 6], advantage=1.0)
    for token in (7, 8):
        tree.add(shared, sampled=[token], advantage=1.0, reward=0.0)
    packed = pack([tree])
    assert packed.ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 6]]
    assert packed.predictors.tolist() == [2, 5, 5]
    assert packed.rows.index.tolist() == [[0, 1], [0, 2]]


def test_row_advantage_replaces_those_of_the_turns() -> None:
    tree = random_tree(5, size=20)
    for number, leaf in enumerate(whole(tree).leaves):
        leaf.row_advantage = float(number)
    rows = pack([tree]).rows
    for number in range(len(tree.leaves())):
        assert set(rows.advantages[number, rows.mask[number]].tolist()) <= {float(number)}


def test_sibling_branches_do_not_see_each_other() -> None:
    model, tree = MODELS["qwen3"], RolloutTree("q", [1, 2])
    for token in (3, 4):
        tree.add(tree.root, sampled=[token, 5], advantage=1.0, reward=0.0)
    before = token_logprobs(model, pack([tree]))
    tree.root.children[0].sampled[0] = 9
    after = token_logprobs(model, pack([tree]))
    assert before[1] != after[1]
    torch.testing.assert_close(before[2:], after[2:], rtol=0, atol=0)


def test_attention_is_restored_even_after_an_error() -> None:
    model = MODELS["qwen3"]
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError, match="inside"), tree_attention(model):
        assert model.config._attn_implementation != before
        raise RuntimeError("inside")
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("setting", "value"),
    [("final_logit_softcapping", 30.0), ("layer_types", ["full_attention", "sliding_attention"])],
)
def test_models_that_would_be_wrong_are_refused(setting: str, value: object) -> None:
    model = tiny_model()
    check_model(model)
    setattr(model.config, setting, value)
    with pytest.raises(UnsupportedModelError, match="expects"):
        check_model(model)


def test_incomplete_trees_are_refused() -> None:
    unrewarded, uncredited = random_tree(1), random_tree(1)
    unrewarded.leaves()[0].reward = uncredited.leaves()[0].advantage = None
    for trees, problem in (
        ([], "at least one tree"),
        ([empty_tree()], "at least one sampled token"),
        ([unrewarded], "needs a reward"),
        ([uncredited], "needs an advantage"),
    ):
        with pytest.raises(TreeError, match=problem):
            pack(trees)
