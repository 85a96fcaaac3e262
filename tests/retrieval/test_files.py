"""Files that are whole or not there, and folders with one writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrieval.files import sole_writer, write_whole


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with sole_writer(folder, ValueError, what="a training run"):
        with pytest.raises(ValueError, match=rf"found a training run by process {os.getpid()}"):
            with sole_writer(folder, ValueError, what="an evaluation"):
                pass
    with sole_writer(folder, ValueError, what="an evaluation"):
        pass


def test_a_text_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "card.json"
    write_whole(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["card.json"]


def test_surrogates_do_not_keep_a_file_from_being_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "\ud83d")
    assert (tmp_path / "a").read_bytes() == b"\xef\xbf\xbd"
