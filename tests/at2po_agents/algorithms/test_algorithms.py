"""Every algorithm from the rollout to the update, and the register of algorithms."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents import algorithms
from at2po_agents.algorithms import (
    AEPO,
    ARPO,
    ATPO,
    DAPO,
    GRPO,
    GSPO,
    REGISTRY,
    Algorithm,
    ReAct,
    TreeGRPO,
)
from at2po_agents.config.train import TrainConfig, dump_config, fingerprint, load_config, override
from at2po_agents.engines import TransformersEngine
from at2po_agents.errors import ConfigError
from at2po_agents.learner.logprobs import flat_logprobs, token_logprobs
from at2po_agents.learner.packing import Pack, pack
from at2po_agents.learner.partition import partition_packs
from at2po_agents.monitoring.metrics_log import read_metrics
from at2po_agents.policy.loading import load_model
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.expansion import forest
from at2po_agents.training.batches import Batches
from at2po_agents.training.trainer import Trainer
from at2po_agents.tree import Node, RolloutTree
from at2po_agents.workers.base import Job
from at2po_envs import Outcome
from tests.at2po_agents.rollout.test_collector import TURNS as SPOKEN
from tests.at2po_agents.rollout.test_collector import ScriptedEngine
from tests.at2po_agents.samples import StepLearner, flat_rows, random_tree, tiny_model
from tests.at2po_agents.training.test_trainer import small

TURNS = SPOKEN  # what the tokenizer has to know

pytestmark = pytest.mark.filterwarnings("default")  # TensorBoard's own warnings are not ours

SMALL: list[tuple[Algorithm, int]] = [
    (ATPO(chains=3, iterations=1, beam=2), 5),
    (ATPO(chains=3, iterations=1, beam=2, search="random", advantage="rows"), 5),
    (ATPO(chains=3, iterations=1, beam=2, rule="paper", entropy="full"), 5),
    (ATPO(chains=3, iterations=1, beam=2, entropy="query", shared="once"), 5),
    (GRPO(chains=4), 4),
    (DAPO(chains=4, max_length=300, buffer=200, mask_truncated=True), 4),
    (GSPO(chains=4), 4),
    (ARPO(chains=5, initial_chains=3, credit="hard"), 5),
    (ARPO(chains=5, initial_chains=3, variant="released"), 5),
    (AEPO(chains=5, initial_chains=3, entropy="full"), 5),
    (AEPO(chains=5, initial_chains=3, variant="released"), 5),
    (TreeGRPO(trees=2), 6),
]
"""Algorithms with the number of leaves that they grow."""
IDS = [f"{algorithm.name}-{place}" for place, (algorithm, _) in enumerate(SMALL)]
both = pytest.mark.parametrize(("algorithm", "leaves"), SMALL, ids=IDS)


class Scripted(ScriptedEngine):
    """The scripted engine with entropies of whole distributions."""

    def _complete(self, request: Any) -> Any:
        done = super()._complete(request)
        return replace(done, entropies=[-2 * logprob for logprob in done.logprobs])


@both
def test_trees_follow_from_the_seed_whatever_order_turns_end_in(
    algorithm: Algorithm, leaves: int, env: Any, tokenizer: Any
) -> None:
    found = []
    for order in (0, 1, 2):
        collector = Collector(env, Scripted(tokenizer, order), tokenizer)
        trees = collector.collect(env.questions[:4], algorithm.expansion(), seed=5)
        assert [len(tree.leaves()) for tree in trees] == [leaves] * 4
        assert all(leaf.reward is not None for tree in trees for leaf in tree.leaves())
        found.append([tree.to_dict() for tree in trees])
    assert found[0] == found[1] == found[2]


@both
def test_one_step_of_the_embedded_model(algorithm: Algorithm, leaves: int, env: Any) -> None:
    model, tokenizer = load_model("mini")
    model = deepcopy(model)
    full = getattr(algorithm, "entropy", "") == "full"
    engine = TransformersEngine(model, tokenizer, keep_entropies=full)
    collector = Collector(env, engine, tokenizer, max_response_tokens=200)
    trees = collector.collect(env.questions[:2], algorithm.expansion(), seed=1)
    for tree in trees:  # whatever the model answered, there is something to learn
        for number, leaf in enumerate(tree.leaves()):
            leaf.reward = float(number % 2)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    metrics = StepLearner(model, algorithm=algorithm, lr=1e-3).update(trees)
    assert metrics["rows"] == 2 * leaves
    assert (metrics["optimizer_steps"], metrics["skipped"]) == (1, 0)
    assert metrics["ratio_min"] == metrics["ratio_max"] == 1.0
    assert metrics["grad_norm"] > 0
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert not torch.equal(before, after)


EVERY: list[Algorithm] = [
    *(cls() for cls in REGISTRY.values() if cls.learns),
    *(algorithm for algorithm, _ in SMALL),
    GRPO(kl_coef=0.3, shared="once"),
    AEPO(shared="once", aggregation="seq-mean-token-mean"),
    ATPO(importance_cap=1.2),
    GRPO(importance_cap=2.0, shared="once"),
    GSPO(importance_cap=1.1),
]


def credited_trees(algorithm: Algorithm, seed: int) -> list[RolloutTree]:
    """Build two random trees with credit; some episodes were cut off."""
    trees = [random_tree(seed, size=12), random_tree(seed + 1, size=12)]
    for tree in trees:
        for node in tree.nodes():
            node.outcome = Outcome(False, 0.0, True, truncated=len(node.sampled) == 2)
        algorithm.assign_credit(tree)
    return trees


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda algorithm: algorithm.name)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32))
def test_packed_equals_flat_however_trees_are_cut(algorithm: Algorithm, seed: int) -> None:
    model = tiny_model()
    parameters = list(model.parameters())
    trees = credited_trees(algorithm, seed)
    whole = pack(trees, dtype=torch.float64)

    def share(packed: Pack, logp: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient of a pack, under policies that are off by something per token."""
        rows = packed.rows
        names = packed.targets + 31 * packed.positions[0, packed.predictors]
        drift, away = (rows.gather(0.3 * torch.sin(names * k)) for k in (1.3, 2.1))
        counts = {
            name: getattr(whole.rows, name)
            for name in ("total_rows", "total_tokens", "entropy_mean_std")
        }
        rows = replace(rows, ref_logprobs=logp.detach() + away, **counts)
        loss = algorithm.loss(rows, logp, logp.detach() + drift).loss
        return loss, list(torch.autograd.grad(loss, parameters, materialize_grads=True))

    scores = torch.cat(flat_logprobs(model, flat_rows(trees)))
    expected = share(
        whole, torch.zeros(whole.rows.mask.shape).double().masked_scatter(whole.rows.mask, scores)
    )
    for budget in (1, 25, 10**6):
        (packs,) = partition_packs(trees, 1, budget)
        parts = [pack(members, dtype=torch.float64) for members in packs]
        found = [share(part, part.rows.gather(token_logprobs(model, part))) for part in parts]
        loss = sum(loss.item() for loss, _ in found)
        assert loss == pytest.approx(expected[0].item(), rel=1e-9, abs=1e-12)
        gradient, reference = (
            torch.cat([tensor.flatten() for tensor in tensors])
            for tensors in ([sum(g) for g in zip(*(g for _, g in found), strict=True)], expected[1])
        )
        assert (gradient - reference).norm() <= 1e-9 * reference.norm() + 1e-15


def test_tree_grpo_compares_rows_within_their_tree(env: Any, tokenizer: Any) -> None:
    collector = Collector(env, ScriptedEngine(tokenizer), tokenizer)
    trees = collector.collect(env.questions[:8], TreeGRPO(trees=2).expansion(), seed=3)
    for tree in trees:
        groups = [[node for node in nodes if node.is_leaf] for nodes in forest(tree)]
        assert [len(group) for group in groups] == [3, 3]
        TreeGRPO(trees=2, inter=False).assign_credit(tree)
        for group in groups:
            assert sum(leaf.row_advantage or 0 for leaf in group) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("length", "dropped", "penalty"),
    [
        (4000, 0, 0),
        (4192, 0, 0),
        (5192, 0, -0.5),
        (6192, 0, -1),
        (5000, 1300, -1),  # full: the release would have filled it up
        (5000, 1192, -1),  # not a single token left to read the result with
        (5000, 192, -0.5),  # a context shorter than the limit
        (4000, 100, 0),
        (4000, 10**6, -1),
        (7000, 0, -1),  # a budget above the limit
    ],
)
def test_the_overlong_penalty_counts_what_did_not_fit(
    length: int, dropped: int, penalty: float
) -> None:
    tree = RolloutTree("q", [1, 2, 3])
    first = tree.add(tree.root, sampled=[1] * 1000, inserted=[2] * 2000)
    leaf = tree.add(first, sampled=[1] * (length - 3000), reward=1.0)
    leaf.outcome = Outcome(False, 0.0, True, truncated=dropped > 0, dropped_tokens=dropped)
    assert DAPO().shaped(leaf) == pytest.approx(1 + penalty)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), room=st.integers(1, 300), by_context=st.booleans())
def test_rows_are_as_long_for_dapo_as_what_they_would_have_held(
    seed: int, room: int, by_context: bool, env: Any, tokenizer: Any
) -> None:
    """Whether the response's budget or the model's context ends an episode before its time."""
    limits = {"max_response_tokens": 300} if by_context else {"max_response_tokens": room}
    collector = Collector(env, Scripted(tokenizer, 0), tokenizer, **limits)
    questions = env.questions[:1]
    if by_context:
        collector.context = (
            len(collector.collect(questions, GRPO(chains=1).expansion())[0].root.inserted) + room
        )
    (tree,) = collector.collect(questions, GRPO(chains=4).expansion(), seed=seed)
    for leaf in tree.leaves():
        own = len(leaf.ids()) - len(tree.root.inserted)
        dropped = leaf.outcome.dropped_tokens
        assert own <= room
        if dropped:
            assert leaf.truncated and not leaf.inserted and own + dropped >= room
        if leaf.truncated and not dropped:
            assert (leaf.finish, own) == ("length", room)
        penalty = DAPO(max_length=room, buffer=room).shaped(leaf) - leaf.reward
        assert penalty == pytest.approx(-min(own + dropped, room) / room)
        if leaf.truncated:
            assert penalty == -1


def group(*rewards: float, length: int = 1) -> RolloutTree:
    """Build rows of one turn whose exact match is their reward; each is longer than the last."""
    tree = RolloutTree("q", [1])
    for place, reward in enumerate(rewards):
        tree.add(
            tree.root,
            sampled=[1] * (place * length),
            reward=reward,
            outcome=Outcome(reward > 0, 0.0, True),
        )
    return tree


def test_groups_are_filtered_by_exact_match_or_by_the_shaped_reward() -> None:
    mixed, same = group(1, 0), group(1, 1, length=10)
    by_em, released = DAPO(), DAPO(metric="reward", max_length=12, buffer=10)
    assert (by_em.informative(mixed), by_em.informative(same)) == (True, False)
    assert (released.informative(mixed), released.informative(same)) == (True, True)


@pytest.mark.parametrize(
    ("informative", "max_resample_rounds", "grown", "kept"),
    [
        ([1, 0, 1, 0, 1], 3, 4, [0, 2]),
        ([0, 0, 0, 1, 1], 3, 6, [3, 4]),
        ([0, 0, 0, 1, 1], 2, 4, [3, 0]),
        ([0] * 6, 3, 6, [0, 1]),
    ],
)
def test_a_batch_is_filled_up_to_the_limit(
    informative: list[int], max_resample_rounds: int, grown: int, kept: list[int]
) -> None:
    stock = [group(1, 1 - kind) for kind in [*informative, 0]]
    taken: list[RolloutTree] = []

    class Workers:
        def run_job(self, job: Job) -> list[RolloutTree]:
            fresh = stock[len(taken) : len(taken) + len(job.questions)]
            taken.extend(fresh)
            return fresh

    workers: Any = Workers()
    algorithm = DAPO(oversample=1, max_resample_rounds=max_resample_rounds)
    config = override(
        TrainConfig(),
        {"algorithm": algorithm, "rollout.questions_per_step": 2, "optim.mini_batches": 1},
    )
    batch = Batches(config, 10, workers).roll_out(0)
    assert batch.grown == taken == stock[:grown]
    assert batch.trees == [stock[place] for place in kept]
    assert batch.asked == grown


def run(out: Path, **changes: Any) -> TrainConfig:
    """A run of DAPO of seconds."""
    dapo = DAPO(chains=3, oversample=1, max_resample_rounds=2, kl_coef=0.01)
    settings = {"algorithm": dapo, "rollout.questions_per_step": 2, "eval.every": 0}
    return small(out, **(settings | changes))


def test_dynamic_sampling_counts_all_tokens_and_resumes(tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    summary = Trainer(run(whole)).run()
    Trainer(run(halved, steps=2)).run()
    Trainer(run(halved, resume=True)).run()
    rows = {}
    for out in (whole, halved):
        rows[out] = [
            {name: value for name, value in row.items() if name[:4] not in ("time", "eval")}
            for row in read_metrics(out / "metrics.jsonl")
        ]
    assert rows[whole] == rows[halved]
    steps = rows[whole][1:]
    assert {row["policy/trees"] for row in steps} == {2}
    assert {row["rollout/trees"] for row in steps} <= {2, 4}
    assert any(row["rollout/trees"] == 4 for row in steps)
    assert summary["sampled_tokens"] == sum(row["tokens/sampled"] for row in steps)
    assert summary["algorithm"] == "dapo"


def test_react_evaluates_and_does_not_train(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--steps 0"):
        Trainer(run(tmp_path / "x", algorithm=ReAct()))
    summary = Trainer(run(tmp_path / "y", algorithm=ReAct(), steps=0)).run()
    assert (summary["steps"], summary["sampled_tokens"]) == (0, 0)
    assert summary["em_before"] == summary["em_after"]


@dataclass(frozen=True)
class Mine(Algorithm):
    """An algorithm of somebody else."""

    chains: int = 2

    name: ClassVar[str] = "mine"

    def expansion(self) -> Any:
        return GRPO(chains=self.chains).expansion()

    def assign_credit(self, tree: RolloutTree) -> None:
        GRPO().assign_credit(tree)

    def loss(self, rows: Any, logp: Tensor, old: Tensor) -> Any:
        return GRPO(kl_coef=0.0).loss(rows, logp, old)


def test_an_algorithm_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "REGISTRY", dict(REGISTRY))
    algorithms.register_algorithm("mine", Mine)
    assert algorithms.find("mine") is Mine
    path = tmp_path / "run.toml"
    path.write_text('[algorithm]\nname = "mine"\nchains = 5')
    config = load_config(TrainConfig, path)
    assert config.algorithm == Mine(5)
    # Another process knows no registration: the settings name module and class.
    written = dump_config(config)
    assert f'name = "{Mine.__module__}:Mine"' in written
    monkeypatch.setattr(algorithms, "REGISTRY", dict(REGISTRY))
    path.write_text(written)
    assert load_config(TrainConfig, path) == config
    assert fingerprint(load_config(TrainConfig, path)) == fingerprint(config)
    with pytest.raises(ConfigError, match="found 'grpo'; choose another"):
        algorithms.register_algorithm("grpo", Mine)


def test_what_is_no_algorithm_is_refused_with_what_to_do() -> None:
    @dataclass(frozen=True)
    class Plain:
        name: ClassVar[str] = "plain"

    @dataclass(frozen=True)
    class Half(Algorithm):
        name: ClassVar[str] = "half"

        def expansion(self) -> Any:
            raise NotImplementedError

    wrong: Any = Plain
    with pytest.raises(ConfigError, match="that extends .*Algorithm, found .*Plain.*let it extend"):
        algorithms.register_algorithm("plain", wrong)
    with pytest.raises(ConfigError, match="found .*Half.* without assign_credit, loss"):
        algorithms.register_algorithm("half", Half)


def test_names_find_their_algorithms() -> None:
    for name, cls in REGISTRY.items():
        assert algorithms.find(name) is cls
        assert algorithms.name_of(cls()) == cls.name == name
    with pytest.raises(ConfigError, match="found 'at2po'; did you mean 'atpo'"):
        algorithms.find("at2po")


def test_each_method_fits_on_one_screen() -> None:
    folder = Path(algorithms.__file__).parent
    for name in REGISTRY:
        assert len((folder / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (ATPO, {"clip_low": -0.1}),
        (ATPO, {"clip_high": float("nan")}),
        (ATPO, {"beam": 0}),
        (ATPO, {"value": "mean"}),
        (ATPO, {"search": "best"}),
        (ATPO, {"advantage": "row"}),
        (GRPO, {"chains": 0}),
        (GRPO, {"dual_clip": 0.5}),
        (GRPO, {"kl_coef": -1.0}),
        (GSPO, {"ratio": "row"}),
        (DAPO, {"metric": "f1"}),
        (DAPO, {"buffer": 0}),
        (DAPO, {"max_length": 1999}),
        (ARPO, {"chains": 4}),
        (ARPO, {"credit": "firm"}),
        (AEPO, {"variant": "paper"}),
        (TreeGRPO, {"trees": 0}),
    ],
)
def test_bad_settings_are_refused_at_once(cls: type[Any], wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        cls(**wrong)


def kl_model() -> tuple[PreTrainedModel, RolloutTree]:
    tree = random_tree(2, size=6)
    for leaf in tree.leaves():
        leaf.reward = 1.0
    return tiny_model(), tree


def test_a_kl_term_pulls_even_trees_without_advantage_back() -> None:
    model, tree = kl_model()
    ours = StepLearner(model, algorithm=GRPO(kl_coef=1.0), lr=1e-3, weight_decay=0.0)
    assert ours.reference is not None
    with torch.no_grad():
        for parameter in model.parameters():
            shift = torch.linspace(-0.05, 0.05, parameter.numel(), dtype=parameter.dtype)
            parameter.add_(shift.view_as(parameter))
    losses = [ours.update([tree])["loss"] for _ in range(6)]
    assert losses[0] > 0
    assert min(losses[1:]) < losses[0]
    assert ours.update([tree])["zero_variance_trees"] == 1


def test_without_a_coefficient_there_is_no_reference() -> None:
    model, tree = kl_model()
    assert StepLearner(model, algorithm=GRPO(kl_coef=0.0)).reference is None
    start = tiny_model(seed=3)
    kept = StepLearner(model, algorithm=GRPO(), reference=start)
    assert kept.reference is start
    assert not any(p.requires_grad for p in start.parameters())
    assert kept.update([tree])["loss"] > 0  # two models: there is a distance from the first step


def test_engine_entropies_are_those_of_the_model(env: Any) -> None:
    model, tokenizer = load_model("mini")
    engine = TransformersEngine(model, tokenizer, keep_entropies=True)
    (tree,) = Collector(env, engine, tokenizer, max_response_tokens=60).collect(
        env.questions[:1], GRPO(chains=2).expansion()
    )
    node: Node = tree.root.children[0]
    ids = torch.tensor([[*tree.root.inserted, *node.sampled]])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0, len(tree.root.inserted) - 1 : -1].log_softmax(-1)
    expected = -(logp.exp() * logp).sum(-1)
    torch.testing.assert_close(torch.tensor(node.entropies), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("grpo", "kl_coef"),
        ("atpo", "branch_penalty"),
        ("arpo", "weight"),
        ("aepo", "weight"),
        ("aepo", "entropy_weight"),
    ],
)
def test_weights_that_are_not_finite_are_refused(name: str, setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{setting.replace('branch_', '')}(:| must be)"):
        algorithms.find(name)(**{setting: value})


def test_a_module_that_exits_when_it_is_imported_ends_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_exits.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="SystemExit"):
        algorithms.find("module_that_exits:X")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("module_that_fails:X", "mend module_that_fails, or the class's name$"),
        ("module_that_lacks:X", "No module named 'nowhere'; mend module_that_lacks,"),
        ("no_such_module:X", "put the module on PYTHONPATH$"),
        ("no_such_package.inner:X", "put the module on PYTHONPATH$"),
        ("at2po_agents.algorithms:Nothing", "or the class's name$"),
    ],
)
def test_a_module_that_fails_is_told_from_one_that_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    (tmp_path / "module_that_fails.py").write_text("from at2po_agents import nothing\n")
    (tmp_path / "module_that_lacks.py").write_text("import nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=advice):
        algorithms.find(name)
