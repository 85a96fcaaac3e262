from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from at2po_agents.errors import CheckpointError
from at2po_agents.learner import checkpoint
from at2po_agents.learner.checkpoint import OPTIMIZER, SHARDS, STATE, latest, load, seal
from at2po_agents.learner.checkpoint_writing import Draft, save
from tests.at2po_agents.samples import tiny_tokenizer

RUN = "a" * 64
OTHER = "b" * 64
FILES = [STATE, OPTIMIZER, "model.safetensors", "config.json", "tokenizer.json"]


def new_model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=13,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def new_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take steps whose data depend on the step's number only."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 13, (2, 6), generator=generator)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def write(
    root: Path, step: int, *, fingerprint: str = RUN, keep: int = 9, extra: Any = None, **parts: Any
) -> Path:
    """Save a model after a step; parts take the place of its own."""
    model = new_model()
    optimizer = new_optimizer(model)
    train(model, optimizer, range(1))
    own = {"model": model, "tokenizer": tiny_tokenizer(), "optimizer_state": optimizer.state_dict()}
    facts = {"extra": extra or {}, "fingerprint": fingerprint, "keep": keep}
    return save(root, step, **(own | parts), **facts)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    for step in (2, 4):
        write(root, step, extra={"sampled_tokens": step})
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """A folder with whole checkpoints of steps 2 and 4."""
    return shutil.copytree(pristine, tmp_path / "checkpoints")


def newest(root: Path) -> Path | None:
    found = latest(root, RUN)
    return None if found is None else found.path


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    straight = new_model()
    train(straight, optimizer := new_optimizer(straight), range(4))

    first = new_model()
    train(first, first_optimizer := new_optimizer(first), range(2))
    extra = {"sampled_tokens": 7, "skipped": [1]}
    state = first_optimizer.state_dict()
    path = write(tmp_path, 2, model=first, optimizer_state=state, extra=extra)
    found = load(path, RUN)
    assert (found.step, found.path, found.extra) == (2, path, extra)
    second = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    second_optimizer = new_optimizer(second)
    second_optimizer.load_state_dict(found.optimizer())
    train(second, second_optimizer, range(2, 4))

    expected, restored = weights(straight), weights(second)
    assert expected.keys() == restored.keys()
    for name in expected:
        assert torch.equal(expected[name], restored[name]), name
    for one, two in zip(
        optimizer.state_dict()["state"].values(),
        second_optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_latest_is_the_newest(root: Path, tmp_path: Path) -> None:
    assert newest(root) == root / "step_000004"
    assert newest(tmp_path / "nothing") is None


def test_latest_orders_by_number(tmp_path: Path) -> None:
    write(tmp_path, 999_999)
    path = write(tmp_path, 1_000_000)
    assert newest(tmp_path) == path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, list[Callable[[Path], object]]] = {
    "truncated": [lambda path: path.write_bytes(path.read_bytes()[:-1])],
    "flipped": [flip],
    "empty": [lambda path: path.write_bytes(b"")],
    "gone": [Path.unlink],
    "a folder": [Path.unlink, Path.mkdir],
    "a link to nothing": [Path.unlink, lambda path: path.symlink_to("nowhere")],
    "a pipe": [Path.unlink, os.mkfifo],
    "deep nesting": [lambda path: path.write_text("[" * 100_000 + "]" * 100_000)],
    "no text": [lambda path: path.write_bytes(b"\xff\xfe\x00")],
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_checkpoint_is_refused_and_the_last_good_one_named(
    root: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt, good = root / "step_000004", root / "step_000002"
    for change in DAMAGE[damage]:
        change(corrupt / name)
    with pytest.raises(CheckpointError) as error:
        load(corrupt, RUN)
    message = str(error.value)
    assert message.startswith(f"{corrupt}: expected a whole checkpoint")
    assert f"corrupt: {name} is " in message
    assert f"the last good one is {good}" in message
    with caplog.at_level(logging.WARNING):
        assert newest(root) == good
    assert f"skipping checkpoint {corrupt}: corrupt: {name}" in caplog.text
    assert load(good, RUN).step == 2


def test_any_changed_byte_of_the_state_is_seen(root: Path) -> None:
    path = root / "step_000004" / STATE
    content = path.read_bytes()
    for position in range(0, len(content), 5):
        changed = bytearray(content)
        changed[position] ^= 3
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=f"corrupt: {STATE}"):
            load(path.parent, RUN)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"sha256": 1}', "null"])
def test_a_state_that_is_other_json_is_corrupt(root: Path, content: str) -> None:
    path = root / "step_000004" / STATE
    path.write_text(content)
    with pytest.raises(CheckpointError, match=f"corrupt: {STATE}"):
        load(path.parent, RUN)


def test_another_configuration_is_refused(root: Path) -> None:
    with pytest.raises(CheckpointError, match="another configuration; there is no good one"):
        load(root / "step_000004", OTHER)
    with pytest.raises(CheckpointError, match=r"none that can be used \(step_000004: written by"):
        latest(root, OTHER)


def test_all_corrupt_is_an_error_not_a_fresh_start(root: Path) -> None:
    for path in root.iterdir():
        (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json is missing.*start in another folder"):
        latest(root, RUN)


def test_a_missing_checkpoint_is_refused(root: Path) -> None:
    with pytest.raises(CheckpointError, match="state.json is missing; the last good one is .*4"):
        load(root / "step_000003", RUN)


def start_a_draft(root: str, ready: str) -> None:
    """In another process: begin to write a checkpoint, and wait to be killed."""
    with Draft(Path(root), 6, RUN) as draft:
        (draft.folder / "model.safetensors").write_bytes(b"1" * 1000)
        Path(ready).touch()
        time.sleep(600)


def test_a_draft_of_a_dead_process_goes_and_that_of_a_living_one_stays(
    root: Path, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    other = multiprocessing.get_context("spawn").Process(
        target=start_a_draft, args=(str(root), str(ready))
    )
    other.start()
    while not ready.exists():
        assert other.is_alive()
        time.sleep(0.01)
    assert newest(root) == root / "step_000004"
    write(root, 5)
    (theirs,) = root.glob(".step_*")
    assert (theirs / "model.safetensors").exists()
    other.kill()
    other.join()
    path = write(root, 6)
    assert newest(root) == path
    assert names(root) == ["step_000002", "step_000004", "step_000005", "step_000006"]


def test_what_was_being_removed_when_killed_goes_or_comes_back(root: Path) -> None:
    (root / "step_000002").rename(root / ".step_000002.0a1b2c3d")  # its name is free
    shutil.copytree(root / "step_000004", root / ".step_000004.0a1b2c3d")
    write(root, 6)
    assert names(root) == ["step_000002", "step_000004", "step_000006"]
    assert load(root / "step_000002", RUN).step == 2


def test_a_draft_is_out_of_sight_until_it_is_finished(root: Path) -> None:
    with Draft(root, 6, RUN) as draft:
        (draft.folder / "pieces").mkdir()
        (draft.folder / "pieces" / ".hidden").write_bytes(b"1")
        assert newest(root) == root / "step_000004"
        path = draft.finish(extra={"a": 1}, keep=2)
    assert path == newest(root) == root / "step_000006"
    assert names(root) == ["step_000004", "step_000006"]
    assert latest(root, RUN) == load(path, RUN) == load(path, None)
    assert (load(path, RUN).step, load(path, RUN).extra, load(path, RUN).shards) == (
        6,
        {"a": 1},
        None,
    )
    assert sorted(each.name for each in path.iterdir()) == ["pieces", STATE]
    (path / "pieces" / ".hidden").write_bytes(b"2")  # every file counts, wherever it is
    assert newest(root) == root / "step_000004"


def test_a_draft_that_is_given_up_leaves_nothing(root: Path) -> None:
    with pytest.raises(Interrupted), Draft(root / "new" / "run", 1, RUN) as draft:
        (draft.folder / "part").write_bytes(b"1")
        raise Interrupted
    assert names(root / "new" / "run") == []


def test_a_checkpoint_with_a_folder_of_shards_says_so(root: Path) -> None:
    with Draft(root, 6, RUN) as draft:
        (draft.folder / SHARDS).mkdir()
        (draft.folder / SHARDS / "piece").write_bytes(b"1")
        path = draft.finish(extra={}, keep=2)
    assert load(path, RUN).shards == path / SHARDS


IN_THE_WAY: dict[str, list[Callable[[Path], object]]] = {
    "a file": [lambda path: path.write_text("x")],
    "an empty folder": [Path.mkdir],
    "a link to nothing": [lambda path: path.symlink_to("nowhere")],
    "a link to itself": [lambda path: path.symlink_to(path.name)],
    "a folder of somebody's": [Path.mkdir, lambda path: (path / "thesis.txt").write_text("mine")],
}


def everything(folder: Path) -> dict[str, Any]:
    """What lies below a folder: contents of files, targets of links."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("put", IN_THE_WAY)
@pytest.mark.parametrize("name", ["step_000006", ".step_000006", ".step_000003.0a1b2c3d"])
def test_what_is_not_ours_is_never_removed_by_saving(root: Path, name: str, put: str) -> None:
    for make in IN_THE_WAY[put]:
        make(root / name)
    before = everything(root)
    path = write(root, 6, keep=9)
    assert newest(root) == path == root / "step_000006"
    now = f"{name}.1" if name == "step_000006" else name  # it gives way, whatever it is
    moved = {key.replace(name, now) if key.startswith(name) else key for key in before}
    assert moved <= everything(root).keys()
    for key, content in before.items():
        assert everything(root)[key.replace(name, now, 1)] == content


def test_a_checkpoint_of_another_run_or_place_stays(root: Path, tmp_path: Path) -> None:
    write(root, 3, fingerprint=OTHER)
    write(root, 8, fingerprint=OTHER)
    shutil.move(root / "step_000002", tmp_path / "elsewhere")
    (root / "step_000002").symlink_to(tmp_path / "elsewhere")
    write(root, 6, keep=1)
    assert names(root) == ["step_000002", "step_000003", "step_000006", "step_000008"]
    assert load(root / "step_000002", RUN).step == 2


def test_a_copy_under_the_name_of_another_step_stays(root: Path) -> None:
    for name in ("step_000001", "step_000006", "step_000009"):
        shutil.copytree(root / "step_000004", root / name)
    write(root, 6, keep=1)
    kept = ["step_000001", "step_000006", "step_000006.1", "step_000009"]
    assert names(root) == kept and newest(root) == root / "step_000006"


def test_files_that_somebody_put_into_a_checkpoint_stay(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = root / "step_000002" / "a" / "notes"
    notes.parent.mkdir()
    notes.write_text("mine")
    with caplog.at_level(logging.WARNING):
        write(root, 6, keep=1)
    (kept,) = root.glob("step_000002.*")
    assert (kept / "a" / "notes").read_text() == "mine"
    assert [path.name for path in kept.iterdir()] == ["a"]
    assert "kept, as no checkpoint wrote a" in caplog.text
    assert names(root) == [kept.name, "step_000006"]


def test_a_mark_that_a_kill_left_in_a_checkpoint_goes_with_it(root: Path) -> None:
    (root / "step_000002" / ".lock").write_text("a checkpoint by process 1\n")
    assert load(root / "step_000002", RUN).step == 2
    write(root, 6, keep=1)
    assert names(root) == ["step_000006"]


def test_what_cannot_be_removed_does_not_end_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self: Path, missing_ok: bool = False) -> None:
        if "step_000002" in str(self):
            raise PermissionError(1, "Operation not permitted", str(self))
        os.unlink(self)

    monkeypatch.setattr(Path, "unlink", refused)
    path = write(root, 6, keep=1)
    assert newest(root) == path
    assert "step_000002: cannot be removed: [Errno 1]" in caplog.text


def test_a_state_that_names_files_elsewhere_removes_none(root: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.write_text("mine")
    state = {"step": 2, "fingerprint": RUN, "extra": {}, "files": {"../../thesis": "", "/": ""}}
    (root / "step_000002" / STATE).write_bytes(seal(state))
    write(root, 6, keep=1)
    assert thesis.read_text() == "mine"


def test_a_checkpoint_under_the_name_of_another_step_is_skipped(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(root / "step_000002", root / "step_000009")
    shutil.copytree(root / "step_000002", root / "step_0000010")  # no name that we write
    shutil.copytree(root / "step_000002", root / "step_٠٠٠٠١١")
    assert newest(root) == root / "step_000004"
    assert "step_000009: written as that of step 2" in caplog.text
    shutil.copytree(root / "step_000002", root / "best")
    assert load(root / "best", RUN).step == 2  # a copy by another name is still one


def test_a_file_that_would_change_what_is_loaded_is_seen(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "step_000002" / "notes.txt").write_text("good one")
    (root / "step_000004" / "chat_template.jinja").write_text("{{ evil }}")
    assert newest(root) == root / "step_000002"
    assert "chat_template.jinja was not written with it; move that file elsewhere" in caplog.text


@pytest.mark.parametrize(
    "change", [{"step": "4"}, {"fingerprint": 1}, {"extra": []}, {"files": ["a"]}, {"step": True}]
)
def test_a_state_of_other_types_is_corrupt(root: Path, change: dict[str, Any]) -> None:
    path = root / "step_000004" / STATE
    state = json.loads(path.read_text())
    state.pop("sha256")
    path.write_bytes(seal(state | change))
    assert newest(root) == root / "step_000002"


def test_who_reads_while_a_run_goes_on_gets_what_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked = checkpoint._problem, list[Path]()

    def late(path: Path, fingerprint: str | None) -> str:
        if not looked:
            write(root, 6, keep=1)  # which removes those that were listed
        looked.append(path)
        return look(path, fingerprint)

    monkeypatch.setattr(checkpoint, "_problem", late)
    assert newest(root) == root / "step_000006"
    assert [path.name for path in looked] == ["step_000004", "step_000002", "step_000006"]


class Full:
    """Saves a part of itself, as safetensors does onto a full disk."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save_pretrained(self, save_directory: str, /) -> None:
        (Path(save_directory) / "model.safetensors").write_bytes(b"1" * 1000)
        raise self.error


@pytest.mark.parametrize("error", [SafetensorError("No space left"), OSError(28, "No space left")])
def test_a_full_disk_is_said_and_gets_its_room_back(root: Path, error: Exception) -> None:
    before = everything(root)
    with pytest.raises(CheckpointError, match="checkpoint of step 6.*No space left.*--resume"):
        write(root, 6, model=Full(error), keep=1)
    assert everything(root) == before


def test_any_configuration_will_do_where_none_is_given(root: Path) -> None:
    write(root, 6, fingerprint=OTHER)
    assert newest(root) == root / "step_000004"
    found = latest(root, None)
    assert found is not None and found == load(root / "step_000006", None)


class Interrupted(Exception):
    pass


def test_a_failing_write_leaves_the_older_ones_as_they_were(root: Path) -> None:
    with pytest.raises(Interrupted):
        write(root, 4, tokenizer=Full(Interrupted()), keep=1)
    assert load(root / "step_000004", RUN).extra == {"sampled_tokens": 4}
    assert load(root / "step_000002", RUN).step == 2


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step_000003", "step_000004"]


def test_later_checkpoints_of_an_abandoned_continuation_go(root: Path) -> None:
    write(root, 3, keep=2)
    assert names(root) == ["step_000002", "step_000003"]


def test_a_corrupt_checkpoint_is_replaced_when_its_step_comes_again(root: Path) -> None:
    flip(root / "step_000004" / OPTIMIZER)
    path = write(root, 4, extra={"again": True})
    assert load(path, RUN).extra == {"again": True}
    assert names(root) == ["step_000002", "step_000004"]
