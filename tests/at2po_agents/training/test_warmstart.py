"""The mini model's making: tokenizer, demonstrations, teaching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from at2po_agents.errors import CheckpointError
from at2po_agents.policy.loading import load_model
from at2po_agents.training.warmstart import (
    WarmStart,
    batch_loss,
    demonstrations,
    encode,
    fit,
    new_model,
    train_tokenizer,
    warm_start,
)
from retrieval.storage.files import sole_writer

SMALL = WarmStart(
    worlds=1, episodes=40, steps=4, layers=1, width=32, vocabulary=500, batch_episodes=2
)


@pytest.fixture(scope="module")
def played() -> list[list[tuple[str, bool]]]:
    return list(demonstrations(SMALL, 1000))


@pytest.fixture(scope="module")
def tokenizer(played: list[list[tuple[str, bool]]]) -> Any:
    return train_tokenizer(["".join(text for text, _ in episode) for episode in played], 500)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=100)
def test_decoding_gives_back_what_was_encoded(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_tag_is_one_token_and_digits_come_in_pairs(tokenizer: Any) -> None:
    for tag in ("<think>", " </think>", " <search>", " </search>", " \\boxed{", " </answer>"):
        assert len(tokenizer.encode(tag, add_special_tokens=False)) == 1
    assert tokenizer.tokenize(" 1987")[0] == "\u012019"  # the letter that stands for a space


def test_demonstrations_follow_from_the_seed(played: list[list[tuple[str, bool]]]) -> None:
    assert list(demonstrations(SMALL, 1000)) == played
    assert list(demonstrations(SMALL, 1001)) != played


def test_demonstrations_alternate_and_end_with_the_agent(
    played: list[list[tuple[str, bool]]],
) -> None:
    for episode in played:
        owners = [own for _, own in episode]
        assert owners == [index % 2 == 1 for index in range(len(owners))]


def test_padding_does_not_change_the_loss(
    played: list[list[tuple[str, bool]]], tokenizer: Any
) -> None:
    model = new_model(SMALL, len(tokenizer), 0).double()
    episodes = sorted((encode(tokenizer, e) for e in played[:2]), key=lambda e: len(e[0]))
    apart = [batch_loss(model, [episode], 0.0)[1] for episode in episodes]
    counts = torch.tensor([sum(own) for _, own in episodes], dtype=torch.float64)
    together = batch_loss(model, episodes, 0.0)[1]
    torch.testing.assert_close(together, (torch.stack(apart) * counts).sum() / counts.sum())


def test_teaching_lowers_the_loss(played: list[list[tuple[str, bool]]], tokenizer: Any) -> None:
    episodes = [encode(tokenizer, episode) for episode in played]
    first = fit(new_model(SMALL, len(tokenizer), 0), episodes, replace(SMALL, steps=10))
    last = fit(new_model(SMALL, len(tokenizer), 0), episodes, replace(SMALL, steps=60))
    assert last < first - 0.5


def test_the_same_settings_make_the_same_model(tmp_path: Path) -> None:
    for name in ("a", "b"):
        warm_start(replace(SMALL, out=tmp_path / name))
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    model, _ = load_model(str(tmp_path / "a"))
    assert model.dtype == torch.float32
    with pytest.raises(FileExistsError, match="choose another"):
        warm_start(replace(SMALL, out=tmp_path / "a"))


@pytest.mark.parametrize("name", ["tokenizer.json", "thesis"])
def test_a_folder_that_holds_something_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"expected an empty folder, found {name}; choose"):
        warm_start(replace(SMALL, out=tmp_path))
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_has_one_maker_at_a_time(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path, ValueError, what="a warm start"),
        pytest.raises(CheckpointError, match="found a warm start by process"),
    ):
        warm_start(replace(SMALL, out=tmp_path))


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, folder: str) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"1")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("transformers.Qwen3ForCausalLM.save_pretrained", full)
    with pytest.raises(CheckpointError, match="expected to write the model, found: No space"):
        warm_start(replace(SMALL, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_too_few_demonstrations_for_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_episodes"):
        warm_start(replace(SMALL, batch_episodes=3, out=tmp_path / "a"))
