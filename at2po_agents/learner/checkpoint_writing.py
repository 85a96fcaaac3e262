"""How checkpoints are written: out of sight until they are whole, and never over what is not ours.

Ours is a checkpoint whose `state.json` is as a run of this configuration wrote it, and a draft that
holds our mark. Of those nothing is removed but the files that they name.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch
from safetensors import SafetensorError

from at2po_agents.errors import CheckpointError
from at2po_agents.learner.checkpoint import (
    OPTIMIZER,
    STATE,
    CheckpointState,
    hashes,
    name_of,
    newest_first,
    read_state,
    seal,
    step_of,
)
from retrieval.storage.files import LOCK, flush, set_aside, sole_writer

_log = logging.getLogger(__name__)

_MARK = "a checkpoint"


class Pretrained(Protocol):
    """A model or tokenizer of transformers, or anything that saves itself into a folder."""

    def save_pretrained(self, save_directory: str, /) -> object:
        """Write all files needed to load this again into a folder."""
        ...


class Draft:
    """A checkpoint that is being put together, out of sight; a context manager.

    A process killed at any moment leaves either the complete checkpoint or none of its name, and a
    draft that the next one removes. A draft that is left without `finish` goes at once: if the disk
    is full, its room is needed. One process at a time writes to a folder of checkpoints: a run
    holds the folder above it.

    Args:
        root: Folder of the run's checkpoints; made if missing.
        step: Training steps done, at least 0.
        fingerprint: Identity of the run's configuration.

    Attributes:
        folder: Where its files are written.
    """

    def __init__(self, root: Path, step: int, fingerprint: str) -> None:
        self.root, self.step, self.fingerprint = root, step, fingerprint
        self.folder = root / f".{name_of(step)}.{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        tidy(self.root, self.fingerprint)
        self.folder.mkdir()
        with ExitStack() as ends:
            ends.callback(shutil.rmtree, self.folder, ignore_errors=True)
            ends.enter_context(sole_writer(self.folder, CheckpointError, what=_MARK))
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.close()

    def finish(self, *, extra: Mapping[str, object], keep: int) -> Path:
        """Turn the draft, which is complete, into a checkpoint; see `save`.

        Args:
            extra: As for `save`.
            keep: As for `save`.

        Returns:
            The checkpoint's folder.
        """
        folder, final = self.folder, self.root / name_of(self.step)
        names = [str(path.relative_to(folder)) for path in _files(folder)]
        state: CheckpointState = {
            "step": self.step,
            "fingerprint": self.fingerprint,
            "extra": dict(extra),
            "files": dict(zip(names, hashes(folder, names), strict=True)),
        }
        (folder / STATE).write_bytes(seal(state))
        for path in (*_files(folder), folder):
            flush(path)
        before = _make_way(final, self.fingerprint)
        folder.rename(final)
        (final / LOCK).unlink()
        flush(self.root)
        if before is not None:
            _remove(before)
        _prune(final, self.fingerprint, keep)
        return final


def save(
    root: Path,
    step: int,
    *,
    model: Pretrained,
    tokenizer: Pretrained,
    optimizer_state: Mapping[str, object],
    extra: Mapping[str, object],
    fingerprint: str,
    keep: int,
) -> Path:
    """Write a checkpoint and remove those it makes superfluous; see `Draft`.

    Args:
        root: Folder of the run's checkpoints; made if missing.
        step: Training steps done, at least 0.
        model: Model being trained.
        tokenizer: Its tokenizer.
        optimizer_state: `Optimizer.state_dict()`.
        extra: JSON values that the trainer needs to resume.
        fingerprint: Identity of the run's configuration.
        keep: Newest checkpoints to keep, at least 1. Checkpoints of later steps go in any case:
            they belong to a continuation that was given up.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: If weights or optimizer cannot be written, as on a full disk.
    """
    with Draft(root, step, fingerprint) as draft:
        try:
            model.save_pretrained(str(draft.folder))
            tokenizer.save_pretrained(str(draft.folder))
            torch.save(dict(optimizer_state), draft.folder / OPTIMIZER)
        except (OSError, SafetensorError, RuntimeError) as error:  # a full disk is any of these
            raise unwritten(root, step, error) from error
        return draft.finish(extra=extra, keep=keep)


def unwritten(root: Path, step: int, error: BaseException) -> CheckpointError:
    """Return the error for a checkpoint that cannot be written.

    Args:
        root: Folder of the run's checkpoints.
        step: Of the checkpoint.
        error: What happened.
    """
    return CheckpointError(
        f"{root}: expected to write the checkpoint of step {step}, found: {error}; make room for "
        "it, then resume from the one before with --resume"
    )


def tidy(root: Path, fingerprint: str) -> None:
    """Clear up after killed processes: drafts go, and what was to be removed goes or comes back.

    Args:
        root: Folder of the run's checkpoints; need not exist.
        fingerprint: Identity of the run's configuration.
    """
    for path in sorted(root.glob(".step_*")):
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
        elif not (path / LOCK).exists() and _is_ours(path, fingerprint):
            final = root / name_of(read_state(path)["step"])
            if os.path.lexists(final):
                _remove(path)
            else:
                path.rename(final)


def _is_ours(path: Path, fingerprint: str) -> bool:
    """Whether a run of this configuration wrote a checkpoint here: copies are somebody's own."""
    try:
        state = read_state(path)
    except CheckpointError:
        return False
    named = path.name.startswith(".") or path.name == name_of(state["step"])
    return named and state["fingerprint"] == fingerprint and not path.is_symlink()


def _is_abandoned(path: Path) -> bool:
    """Whether a folder is a draft whose process is dead."""
    mark = path / LOCK
    try:
        if not (mark.is_file() and mark.read_text(encoding="utf-8").startswith(_MARK)):
            return False
        with sole_writer(path, CheckpointError, what=_MARK):
            return True
    except (OSError, ValueError, CheckpointError):
        return False


def _make_way(final: Path, fingerprint: str) -> Path | None:
    """Free a name; return what had it if that is to be deleted, under a name out of sight."""
    if _is_ours(final, fingerprint):
        return _hide(final)
    if os.path.lexists(final):
        _log.warning(
            "%s: expected a checkpoint of this run, set aside as %s", final, set_aside(final)
        )
    return None


def _prune(newest: Path, fingerprint: str, keep: int) -> None:
    """Remove checkpoints of this run: those of later steps, and older ones beyond those to keep."""
    others = [path for path in newest_first(newest.parent) if path != newest]
    ours = [path for path in others if _is_ours(path, fingerprint)]
    older = [path for path in ours if step_of(path) < step_of(newest)]
    for path in ours:
        if path not in older[: keep - 1]:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; one that cannot be removed is in nobody's way."""
    try:
        _delete(path if path.name.startswith(".") else _hide(path))
    except OSError as error:
        _log.warning("%s: cannot be removed: %s", path, error)


def _hide(path: Path) -> Path:
    """Put a checkpoint out of sight, in one step."""
    return path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))


def _delete(hidden: Path) -> None:
    """Delete the files that a checkpoint names; its state last, as that says which are ours."""
    ours = {*read_state(hidden)["files"], LOCK}
    for path in sorted(hidden.rglob("*"), reverse=True):  # what is in a folder, then the folder
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        elif str(path.relative_to(hidden)) in ours:
            path.unlink()
    if left := [path.name for path in hidden.iterdir() if path.name != STATE]:
        kept = hidden.rename(hidden.with_name(hidden.name.removeprefix(".")))
        _log.warning("%s: kept, as no checkpoint wrote %s", kept, ", ".join(sorted(left)))
        hidden = kept
    (hidden / STATE).unlink()
    with suppress(OSError):
        hidden.rmdir()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / LOCK)
