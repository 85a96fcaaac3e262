"""Files that are whole or not there, and folders with one writer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.storage.files import LOCK, replace_own, sole_writer, write_whole


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


def test_a_folder_whose_lock_was_removed_is_still_held(tmp_path: Path) -> None:
    with sole_writer(tmp_path, ValueError, what="a training run") as held:
        (tmp_path / LOCK).unlink()
        with pytest.raises(ValueError, match="expected no other writer, found one"):
            with sole_writer(tmp_path, ValueError, what="a training run"):
                pass
        held.require()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_was_renamed_is_not_written_to_by_its_name(
    tmp_path: Path, replaced: bool
) -> None:
    folder = tmp_path / "run"
    with sole_writer(folder, ValueError, what="a training run") as held:
        held.require()
        folder.rename(tmp_path / "moved")
        if replaced:
            folder.mkdir()
        with pytest.raises(ValueError, match="found it renamed or removed"):
            held.require()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / LOCK)
    with pytest.raises(ValueError, match="found a link, a folder or a pipe"):
        with sole_writer(tmp_path, ValueError, what="a training run"):
            pass


def test_a_draft_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "thesis"
    other.write_text("mine")
    (tmp_path / f".card.json.{os.getpid()}.draft").symlink_to(other)
    write_whole(tmp_path / "card.json", "new")
    assert other.read_text() == "mine" and (tmp_path / "card.json").read_text() == "new"


@pytest.mark.parametrize(("before", "kept"), [("mine", True), ("<ours>", False), ("", False)])
def test_only_files_of_ours_are_replaced(tmp_path: Path, before: str, kept: bool) -> None:
    path, link = tmp_path / "report.html", tmp_path / "link"
    path.write_text(before)
    link.symlink_to(path)
    replace_own(link, "<ours> new", "<ours>")
    assert path.read_text() == "<ours> new" and link.is_symlink()
    aside = tmp_path / "report.html.1"
    assert (aside.read_text() == before) if kept else not aside.exists()


def test_a_folder_in_the_place_of_a_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    replace_own(tmp_path / "report.html", "<ours>", "<ours>")
    assert (tmp_path / "report.html.1").is_dir()


def test_a_pipe_is_written_to_if_somebody_reads_it(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        replace_own(pipe, "text", "")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace_own(pipe, "text", "")
    assert os.read(reader, 9) == b"text" and pipe.is_fifo()
    os.close(reader)
