"""Checkpoints of several ranks: whole, and good for any number of ranks to go on from."""

from __future__ import annotations

import shutil
import time
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from at2po_agents.algorithms import ATPO
from at2po_agents.config.train import TrainConfig, override
from at2po_agents.errors import CheckpointError, ModelNotFoundError
from at2po_agents.learner import checkpoint
from at2po_agents.learner.checkpoint import STATE, Checkpoint
from at2po_agents.learner.process_group import DataParallelGroup
from at2po_agents.policy.loading import load_model
from at2po_agents.policy.lora import LoraOptions
from at2po_agents.training.export_policy import export_model
from at2po_agents.workers.learner_worker import LearnerWorker, Policy
from tests.at2po_agents.policy.adapted import add_lora
from tests.at2po_agents.samples import damped, tiny_model, tiny_tokenizer, trees
from tests.at2po_agents.training.several_ranks import together

FACTS: dict[str, Any] = {"extra": {}, "fingerprint": "run", "keep": 9}
ALGORITHM = ATPO(clip_low=0.9, clip_high=9.0)
BATCHES = (trees(4), trees(4, seed=50))
for tree in chain(*BATCHES):
    ALGORITHM.assign_credit(tree)
State = dict[str, dict[str, Tensor]]


def worker(group: DataParallelGroup, kind: str, resumed: Checkpoint | None = None) -> LearnerWorker:
    """A learner of a tiny model; one that goes on has had other trained weights before.

    Args:
        group: Processes that learn together.
        kind: A number format, or "lora" for an adapter in float64.
        resumed: The checkpoint to go on from.
    """
    lora = kind == "lora"
    dtype = "float64" if lora else kind
    config = override(
        TrainConfig(),
        {
            "algorithm": ALGORITHM,
            "optim.learning_rate": 0.1,
            "optim.grad_clip": 1e9,
            "optim.mini_batches": 2,
            "optim.token_budget": 30,
            "model.dtype": dtype,
            "lora": LoraOptions(rank=3 if lora else 0),
        },
    )
    seed = 0 if resumed is None else 1
    model = tiny_model(seed=0 if lora else seed, dtype=getattr(torch, dtype))
    saved: checkpoint.Pretrained = model
    whole = resumed is not None and resumed.shards is None
    if lora:
        saved = adapter = add_lora(model, seed=seed)
    if resumed is not None and whole:  # as `load_start` does
        if lora:
            adapter.load(resumed.path)
        else:
            model.load_state_dict(load_model(str(resumed.path), model.dtype)[0].state_dict())
    made = LearnerWorker(config, Policy(model, tiny_tokenizer(), saved), resumed, group)
    damped(made.learner)
    return made


def state(made: LearnerWorker) -> State:
    """All that an update changes: master weights and the optimizer's state."""

    def whole(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()

    names = [name for name, p in made.model.named_parameters() if p.requires_grad]
    masters = dict(zip(names, made.learner.masters.parameters, strict=True))
    moments = made.learner.optimizer.state
    return {
        name: {"weight": whole(p)} | {key: whole(value) for key, value in moments[p].items()}
        for name, p in masters.items()
    }


def write(group: DataParallelGroup, root: Path, kind: str) -> tuple[State, State]:
    """Save before, between and after two updates; return the states after them."""
    made = worker(group, kind)
    made.save(root, 0, **FACTS)
    made.learner.update(BATCHES[0], 0)
    between = state(made)
    made.save(root, 1, **FACTS)
    made.learner.update(BATCHES[1], 1)
    made.save(root, 2, **FACTS)
    made.wait_for_checkpoint()
    return between, state(made)


def go_on(group: DataParallelGroup, root: Path, kind: str) -> tuple[State, State]:
    """Do the second update again, from the checkpoint before it."""
    made = worker(group, kind, checkpoint.load(root / "step_000001", "run"))
    between = state(made)
    made.learner.update(BATCHES[1], 1)
    return between, state(made)


def run(size: int, work: Any, root: Path, kind: str) -> tuple[State, State]:
    found = (
        [work(DataParallelGroup(), root, kind)] if size == 1 else together(size, work, root, kind)
    )
    return found[0]  # type: ignore[no-any-return]


def assert_same(one: State, two: State, close: float = 0.0) -> None:
    assert one.keys() == two.keys()
    for name, tensors in one.items():
        assert tensors.keys() == two[name].keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(two[name][key], tensor, rtol=0, atol=close)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Any]:
    """Folder of the checkpoints, and the states, by number of ranks and kind."""
    found = {}
    for size, kind in product((1, 2), ("float64", "bfloat16", "lora")):
        root = tmp_path_factory.mktemp("checkpoints")
        found[size, kind] = (root, *run(size, write, root, kind))
    return found


def test_ranks_that_save_learn_what_one_process_does(written: dict[Any, Any]) -> None:
    """Not least, making the moments for the first checkpoint does not count as a step."""
    for one, two in zip(written[1, "float64"][1:], written[2, "float64"][1:], strict=True):
        assert_same(one, two, 1e-9)
    before = checkpoint.load(written[2, "float64"][0] / "step_000000", "run")
    between, _ = together(2, go_on_from_the_start, before)[0]
    assert_same(between, written[1, "float64"][1], 1e-9)


def go_on_from_the_start(group: DataParallelGroup, before: Checkpoint) -> tuple[State, None]:
    made = worker(group, "float64", before)
    made.learner.update(BATCHES[0], 0)
    return state(made), None


@pytest.mark.parametrize(
    ("size", "then", "kind"),
    [
        *((2, then, "float64") for then in (2, 1, 3)),
        (1, 2, "float64"),
        (2, 2, "lora"),
        (2, 1, "lora"),
        (1, 2, "lora"),
    ],
)
def test_any_number_of_ranks_goes_on(
    size: int, then: int, kind: str, written: dict[Any, Any]
) -> None:
    root, between, after = written[size, kind]
    restored, again = run(then, go_on, root, kind)
    assert_same(restored, between)
    assert_same(again, after, 1e-9)


@pytest.mark.parametrize(("size", "then"), [(2, 2), (2, 1), (1, 2)])
def test_masters_of_a_bfloat16_run_come_back_bit_for_bit(
    size: int, then: int, written: dict[Any, Any]
) -> None:
    root, between, after = written[size, "bfloat16"]
    assert {tensors["weight"].dtype for tensors in between.values()} == {torch.float32}
    restored, again = run(then, go_on, root, "bfloat16")
    assert_same(restored, between)
    if size == then:
        assert_same(again, after)


def save_and_spoil(group: DataParallelGroup, root: Path, spoiled: Path) -> State | None:
    """Rank 0 goes on to spoil what it has while rank 1 keeps it from writing."""
    from at2po_agents.learner import fsdp as sharding

    made = worker(group, "float64")
    made.learner.update(BATCHES[0], 0)
    then = state(made)
    facts = {**FACTS, "extra": {"questions": 1}}
    if group.is_main:
        made.save(root, 1, **facts)
        facts["extra"]["questions"] = 7
        with torch.no_grad():
            for p in made.learner.masters.parameters:
                p.to_local().fill_(7.0)  # type: ignore[attr-defined]
                for value in made.learner.optimizer.state[p].values():
                    (value.to_local() if isinstance(value, DTensor) else value).fill_(7.0)
        spoiled.touch()
    else:
        get = sharding.get_state_dict

        def late(*arguments: Any) -> Any:
            while not spoiled.exists():
                time.sleep(0.01)
            return get(*arguments)

        sharding.get_state_dict = late  # the files are begun when all ranks have theirs
        made.save(root, 1, **facts)
        sharding.get_state_dict = get
    made.wait_for_checkpoint()
    return then if group.is_main else None


def test_what_is_written_is_what_was_there_when_saving_began(tmp_path: Path) -> None:
    then, _ = together(2, save_and_spoil, tmp_path, tmp_path / "spoiled")
    assert then is not None
    assert checkpoint.load(tmp_path / "step_000001", "run").extra == {"questions": 1}
    restored, _ = go_on(DataParallelGroup(), tmp_path, "float64")
    assert_same(restored, then)


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "lora"])
def test_export_of_shards_and_of_a_whole_checkpoint(
    kind: str, written: dict[Any, Any], tmp_path: Path
) -> None:
    dtype = getattr(torch, "float64" if kind == "lora" else kind)
    found = []
    for size in (1, 2):
        root, _, after = written[size, kind]
        run_folder = tmp_path / f"run {size}"
        run_folder.mkdir()
        (run_folder / checkpoint.FOLDER).symlink_to(root)
        out = tmp_path / f"model {size}"
        assert export_model(run_folder, out).step == 2
        model, tokenizer = load_model(str(out), dtype)
        assert tokenizer.get_vocab() == {"a": 0, "[UNK]": 1}
        assert model.config.dtype == dtype
        found.append(dict(model.named_parameters()))
        if kind != "lora":
            for name, tensor in found[-1].items():
                assert torch.equal(tensor, after[name]["weight"].to(tensor.dtype)), name
    start = dict(tiny_model(dtype=dtype).named_parameters())
    moved = {name for name, tensor in start.items() if not torch.equal(tensor, found[0][name])}
    # An adapter changes the layers that it belongs to, and these only.
    assert moved == {name for name in start if kind != "lora" or "_proj" in name}
    if kind == "lora":
        for name, tensor in found[0].items():
            torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=1e-9)


def test_export_refuses_what_is_not_whole(written: dict[Any, Any], tmp_path: Path) -> None:
    root, _, _ = written[2, "float64"]
    checkpoints = tmp_path / checkpoint.FOLDER
    for step in (1, 2):
        folder = checkpoints / f"step_{step:06d}"
        shutil.copytree(root / folder.name, folder)
    last = checkpoints / "step_000002"
    piece = last / checkpoint.SHARDS / "__1_0.distcp"
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp is not .* last good one is .*0001"):
        export_model(last, tmp_path / "model")
    assert export_model(tmp_path, tmp_path / "model").step == 1
    with pytest.raises(CheckpointError, match="expected a new folder"):
        export_model(tmp_path, tmp_path / "model")
    with pytest.raises(CheckpointError, match="of a run that has one in checkpoints/"):
        export_model(tmp_path / "model" / "none", tmp_path / "other")
    (checkpoints / "step_000001" / STATE).unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        export_model(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_shards_are_no_model_to_load(written: dict[Any, Any]) -> None:
    with pytest.raises(ModelNotFoundError, match="run: at2po export .*step_000001"):
        load_model(str(written[2, "float64"][0] / "step_000001"))
