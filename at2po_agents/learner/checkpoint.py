"""Checkpoints: written whole or not at all, checked byte for byte before they are used.

`checkpoints/step_000004/` is a model folder as `save_pretrained` writes it, with the optimizer's
state (`optimizer.pt`) and `state.json`: step, progress, the configuration's fingerprint, and the
SHA-256 of every file. Where several ranks learn, weights and optimizer are in `shards/` instead
(see `sharding.ShardSaver`). Here they are found and checked; `checkpoint_writing` writes them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from at2po_agents.errors import CheckpointError

_log = logging.getLogger(__name__)

FOLDER = "checkpoints"
STATE = "state.json"
OPTIMIZER = "optimizer.pt"
SHARDS = "shards"
_LOADED = frozenset(".json .jinja .safetensors .bin .model .pt .py .distcp".split())
"""Endings of files that transformers or torch may read where they find them."""


Extra = dict[str, Any]
"""JSON values that the trainer saves beside."""


class CheckpointState(TypedDict):
    """What `state.json` holds, besides its own hash; `files` are hashes by name."""

    step: int
    fingerprint: str
    extra: Extra
    files: dict[str, str]


class OptimizerState(TypedDict):
    """What AdamW's `state_dict` returns: tensors by number of the parameter and by name."""

    state: dict[int, dict[str, Tensor]]
    param_groups: list[dict[str, object]]


class LearnerState(TypedDict):
    """What `optimizer.pt` holds; `masters` are those that are wider than the model's weights."""

    optimizer: OptimizerState
    masters: list[Tensor]


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
    extra: Extra

    @property
    def shards(self) -> Path | None:
        """The folder of the shards, if several ranks wrote it."""
        folder = self.path / SHARDS
        return folder if folder.is_dir() else None

    def optimizer(self) -> LearnerState:
        """Read what `Learner.load_state_dict` takes, onto the CPU; not of a sharded one."""
        state: LearnerState = torch.load(
            self.path / OPTIMIZER, map_location="cpu", weights_only=True
        )
        return state


def latest(root: Path, fingerprint: str | None) -> Checkpoint | None:
    """Return the newest whole checkpoint of a configuration, or None where there is none at all.

    Args:
        root: Folder of the run's checkpoints; need not exist.
        fingerprint: Identity of the run's configuration; None takes any.

    Raises:
        CheckpointError: There are checkpoints, but not one that can be used.
    """
    problems, seen = list[str](), list[Path]()
    while (paths := newest_first(root)) != seen:  # again, if a run has replaced them meanwhile
        problems, seen = [], paths
        for path in paths:
            problem = _problem(path, fingerprint)
            if not problem:
                return _read(path)
            _log.warning("skipping checkpoint %s: %s", path, problem)
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
        CheckpointError: It is corrupt or of another configuration; the message names the reason and
            the newest checkpoint beside it that can be used.
    """
    problem = _problem(path, fingerprint)
    if problem:
        usable = (p for p in newest_first(path.parent) if not _problem(p, fingerprint))
        good = next(usable, None)
        raise CheckpointError(
            f"{path}: expected a whole checkpoint of this run, found: {problem}; "
            + (f"the last good one is {good}" if good else "there is no good one beside it")
        )
    return _read(path)


def newest_first(root: Path) -> list[Path]:
    """Return what is called like a checkpoint, those of later steps first.

    Args:
        root: Folder of the run's checkpoints; need not exist.
    """
    found = [path for path in root.glob("step_*") if _is_name(path.name)]
    return sorted(found, key=step_of, reverse=True)


def name_of(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step_{step:06d}"


def step_of(path: Path) -> int:
    """Return the step that the name of a checkpoint says."""
    return int(path.name.removeprefix("step_"))


def _is_name(name: str) -> bool:
    match = re.fullmatch(r"step_([0-9]{6,})", name)
    return match is not None and name == name_of(int(match[1]))


def read_state(path: Path) -> CheckpointState:
    """Return the content of a checkpoint's `state.json`; the files that it names are not checked.

    Args:
        path: The checkpoint's folder.

    Raises:
        CheckpointError: It cannot be read, or a byte of it changed.
    """
    corrupt = CheckpointError(f"corrupt: {STATE} is not what was written")
    if not (path / STATE).is_file():
        raise CheckpointError(f"corrupt: {STATE} is missing")
    try:
        text = (path / STATE).read_bytes()
        state = json.loads(text)
        state.pop("sha256")
        if text != seal(state):
            raise corrupt
    except OSError as error:
        raise CheckpointError(f"corrupt: {STATE} cannot be read: {error}") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise corrupt from error
    kinds = {"step": int, "fingerprint": str, "extra": dict, "files": dict}
    if any(type(state.get(name)) is not kind for name, kind in kinds.items()):
        raise corrupt
    found: CheckpointState = state
    return found


def seal(state: CheckpointState) -> bytes:
    """Return a state as JSON that holds its own hash; equal states give equal bytes.

    Args:
        state: What `read_state` will return.
    """
    plain = json.loads(json.dumps(state))  # as it will be read: keys are text, tuples are lists
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**plain, "sha256": digest}, sort_keys=True, indent=2) + "\n").encode()


def hashes(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the SHA-256 of files, several at a time: those of large models take minutes.

    Args:
        folder: Their folder.
        names: Their names in it.

    Raises:
        OSError: If one of them cannot be read; its `filename` says which.
    """
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda name: _sha256(folder / name), names))


def _sha256(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(ENOENT, "No such file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _problem(path: Path, fingerprint: str | None) -> str:
    """Return why a checkpoint cannot be used, or nothing."""
    try:
        state = read_state(path)
        if fingerprint not in (None, state["fingerprint"]):
            return "written by a run with another configuration"
        if _is_name(path.name) and step_of(path) != state["step"]:
            return f"written as that of step {state['step']}"
        names, written = list(state["files"]), state["files"].values()
        for name, found, expected in zip(names, hashes(path, names), written, strict=True):
            if found != expected:
                return f"corrupt: {name} is not what was written"
        if foreign := _foreign(path, {STATE, *names}):
            return f"{foreign} was not written with it; move that file elsewhere"
    except FileNotFoundError as error:
        return f"corrupt: {Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"corrupt: a file cannot be read: {error}"
    except CheckpointError as error:
        return str(error)
    return ""


def _foreign(path: Path, names: Collection[str]) -> str:
    """Return a file that could change what is loaded and is not of the checkpoint, or nothing."""
    found = (str(f.relative_to(path)) for f in path.rglob("*") if f.suffix in _LOADED)
    return next((name for name in sorted(found) if name not in names), "")


def _read(path: Path) -> Checkpoint:
    state = read_state(path)
    return Checkpoint(path, state["step"], state["extra"])
