"""Checkpoints: written whole or not at all, checked byte for byte before they are used.

`checkpoints/step_000004/` is a model folder as `save_pretrained` writes it, with the optimizer's
state (`optimizer.pt`) and `state.json`: step, progress, the configuration's fingerprint, and the
SHA-256 of every file. Where several ranks learn, weights and optimizer are in `shards/` instead
(see `sharding.ShardSaver`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from at2po_agents.errors import CheckpointError

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
STATE = "state.json"
OPTIMIZER = "optimizer.pt"
SHARDS = "shards"
_NAME = re.compile(r"step_(\d{6,})")


class Pretrained(Protocol):
    """A model or tokenizer of transformers, or anything that saves itself into a folder."""

    def save_pretrained(self, save_directory: str, /) -> object:
        """Write all files needed to load this again into a folder."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Attributes:
        path: Its folder; tokenizer and model (not of a sharded one) load by `from_pretrained`.
        step: Training steps done when it was written.
        extra: What the trainer saved beside: JSON values.
    """

    path: Path
    step: int
    extra: dict[str, Any]

    @property
    def shards(self) -> Path | None:
        """The folder of the shards, if several ranks wrote it."""
        folder = self.path / SHARDS
        return folder if folder.is_dir() else None

    def optimizer(self) -> dict[str, Any]:
        """Read what `Learner.load_state_dict` takes, onto the CPU; not of a sharded one."""
        state: dict[str, Any] = torch.load(
            self.path / OPTIMIZER, map_location="cpu", weights_only=True
        )
        return state


def save(
    root: Path,
    step: int,
    *,
    model: Pretrained,
    tokenizer: Pretrained,
    optimizer_state: Mapping[str, Any],
    extra: Mapping[str, Any],
    fingerprint: str,
    keep: int,
) -> Path:
    """Write a checkpoint and remove those it makes superfluous.

    A process killed at any moment leaves either the complete folder or none of that name.

    Args:
        root: Folder of the run's checkpoints; made if missing.
        step: Training steps done, at least 0.
        model: Model being trained.
        tokenizer: Its tokenizer.
        optimizer_state: `Optimizer.state_dict()`.
        extra: JSON values that the trainer needs to go on.
        fingerprint: Identity of the run's configuration.
        keep: Newest checkpoints to keep, at least 1. Checkpoints of later steps go in any case:
            they belong to a continuation that was given up.

    Returns:
        The checkpoint's folder.
    """
    folder = draft(root, step)
    begin(folder)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    torch.save(dict(optimizer_state), folder / OPTIMIZER)
    return finish(folder, extra=extra, fingerprint=fingerprint, keep=keep)


def draft(root: Path, step: int) -> Path:
    """Return the folder in which a checkpoint is put together, out of sight."""
    return root / f".step_{step:06d}"


def begin(folder: Path) -> None:
    """Make the folder of a draft, and remove what killed processes left.

    Args:
        folder: What `draft` returned.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.parent.glob(".step_*"):
        shutil.rmtree(abandoned)
    folder.mkdir()


def finish(folder: Path, *, extra: Mapping[str, Any], fingerprint: str, keep: int) -> Path:
    """Turn a draft that is complete into a checkpoint; see `save`.

    Args:
        folder: The draft.
        extra: As for `save`.
        fingerprint: As for `save`.
        keep: As for `save`.

    Returns:
        The checkpoint's folder.
    """
    root, final = folder.parent, folder.with_name(folder.name.removeprefix("."))
    step = _step(final)
    names = [str(path.relative_to(folder)) for path in _files(folder)]
    hashes = dict(zip(names, _hashes(folder, names), strict=True))
    state = {"step": step, "fingerprint": fingerprint, "extra": dict(extra), "files": hashes}
    (folder / STATE).write_bytes(_seal(state))
    for path in (*_files(folder), folder):
        _sync(path)
    if final.exists():
        _remove(final)
    folder.rename(final)
    _sync(root)
    others = [path for path in _newest_first(root) if path != final]
    older = [path for path in others if _step(path) < step]
    for path in others:
        if path not in older[: keep - 1]:
            _remove(path)
    return final


def latest(root: Path, fingerprint: str | None) -> Checkpoint | None:
    """Return the newest whole checkpoint of a configuration, or None where there is none at all.

    Args:
        root: Folder of the run's checkpoints; need not exist.
        fingerprint: Identity of the run's configuration; None takes any.

    Raises:
        CheckpointError: There are checkpoints, but not one that can be used.
    """
    problems = []
    for path in _newest_first(root):
        problem = _problem(path, fingerprint)
        if not problem:
            return _read(path)
        logger.warning("skipping checkpoint %s: %s", path, problem)
        problems.append(f"{path.name}: {problem}")
    if problems:
        raise CheckpointError(
            f"{root}: expected a checkpoint of this run, found none that can be used "
            f"({'; '.join(problems)}); start in another folder, or remove this one"
        )
    return None


def load(path: Path, fingerprint: str | None) -> Checkpoint:
    """Return a checkpoint after checking every byte of it.

    Args:
        path: The checkpoint's folder.
        fingerprint: Identity of the run's configuration; None takes any.

    Raises:
        CheckpointError: It is torn or of another configuration; the message names the reason and
            the newest checkpoint beside it that can be used.
    """
    problem = _problem(path, fingerprint)
    if problem:
        usable = (p for p in _newest_first(path.parent) if not _problem(p, fingerprint))
        good = next(usable, None)
        raise CheckpointError(
            f"{path}: expected a whole checkpoint of this run, found: {problem}; "
            + (f"the last good one is {good}" if good else "there is no good one beside it")
        )
    return _read(path)


def _newest_first(root: Path) -> list[Path]:
    found = [path for path in root.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _problem(path: Path, fingerprint: str | None) -> str:
    """Return why a checkpoint cannot be used, or nothing."""
    try:
        state = _read_state(path)
        names, written = list(state["files"]), state["files"].values()
        for name, found, expected in zip(names, _hashes(path, names), written, strict=True):
            if found != expected:
                return f"torn: {name} is not what was written"
    except FileNotFoundError as error:
        return f"torn: {Path(error.filename).name} is missing"
    except CheckpointError as error:
        return str(error)
    if fingerprint not in (None, state["fingerprint"]):
        return "written by a run with another configuration"
    return ""


def _read(path: Path) -> Checkpoint:
    state = _read_state(path)
    return Checkpoint(path, state["step"], state["extra"])


def _read_state(path: Path) -> dict[str, Any]:
    """Return the content of `state.json`, or raise `CheckpointError` if a byte of it changed."""
    text = (path / STATE).read_bytes()
    try:
        state: dict[str, Any] = json.loads(text)
        state.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"torn: {STATE} is not what was written") from error
    if text != _seal(state):
        raise CheckpointError(f"torn: {STATE} is not what was written")
    return state


def _seal(state: Mapping[str, Any]) -> bytes:
    """Return a state as JSON that holds its own hash; equal states give equal bytes."""
    plain = json.loads(json.dumps(state))  # as it will be read: keys are text, tuples are lists
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**plain, "sha256": digest}, sort_keys=True, indent=2) + "\n").encode()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    """Delete a checkpoint; it is out of sight at once, even if the deletion is cut short."""
    shutil.rmtree(path.rename(path.with_name(f".{path.name}.old")))


def _hashes(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the SHA-256 of files, several at a time: those of large models take minutes."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda name: _sha256(folder / name), names))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
