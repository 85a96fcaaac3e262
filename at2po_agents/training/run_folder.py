"""The folder of a training run: one writer at a time, who touches only what runs have written."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from at2po_agents.errors import CheckpointError, MetricsError
from at2po_agents.learner import checkpoint
from at2po_agents.monitoring import metrics_log as metrics
from at2po_agents.monitoring import status
from at2po_agents.monitoring import trace as timeline
from retrieval.storage.files import Held, free_name, set_aside, sole_writer, write_whole

_log = logging.getLogger(__name__)

CONFIG = "config.toml"
SUMMARY = "summary.json"
EPISODES, TREES, NONFINITE_TREES = "episodes", "trees", "nonfinite_trees"
FILES = (CONFIG, metrics.FILE, status.FILE, timeline.FILE, SUMMARY, "wandb_id")
FOLDERS = (checkpoint.FOLDER, EPISODES, TREES, NONFINITE_TREES, "tensorboard")


@contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Hold a run's folder as its only writer.

    Args:
        folder: The folder; made if missing.

    Yields:
        What says whether it is still in its place.

    Raises:
        CheckpointError: If a run that lives writes to it, or has just renamed it.
    """
    with sole_writer(folder, CheckpointError, what="a training run") as held:
        held.require()
        yield held


def prepare(folder: Path, *, resume: bool) -> None:
    """Make room for a run that begins with its first step.

    What an earlier attempt left that did not get through its first step goes into `attempt.1`, or
    the next number; so does what is there where `resume` found no checkpoint.

    Args:
        folder: The folder, held.
        resume: Whether a run was to go on that has no checkpoint.

    Raises:
        CheckpointError: If it holds a run, or what may be somebody's own, and `resume` is off.
    """
    found = [name for name in (*FILES, *FOLDERS) if os.path.lexists(folder / name)]
    if not found:
        return
    if not (_is_a_run(folder) if resume else _only_an_attempt(folder)):
        raise CheckpointError(
            f"{folder}: expected {'a run to go on with' if resume else 'a new folder'}, found "
            f"{'other' if resume else 'a run in it, or other'} files that are called like those of "
            f"a run ({', '.join(found)}); {'' if resume else 'add --resume to go on with it, or '}"
            "choose another folder with --out"
        )
    (aside := free_name(folder / "attempt")).mkdir()
    for name in sorted(found, key=lambda name: name == status.FILE):  # last what says whose it is
        (folder / name).rename(aside / name)
    _log.info("what an earlier attempt left is in %s", aside)


def _is_a_run(folder: Path) -> bool:
    """Whether what is there was written by a run of ours."""
    try:
        rows = metrics.read_metrics(folder / metrics.FILE)
    except MetricsError:
        rows = []
    return bool(rows) or status.read_status(folder).state is not None


def _only_an_attempt(folder: Path) -> bool:
    """Whether all that is there is of a run of ours that learned nothing and has not ended well."""
    known = status.read_status(folder)
    if known.state in (None, "finished") or known.step or (folder / SUMMARY).exists():
        return False
    if any((folder / checkpoint.FOLDER).glob("*")):
        return False
    try:
        return all(row["step"] == 0 for row in metrics.read_metrics(folder / metrics.FILE))
    except MetricsError:
        return False


def make_way(folder: Path) -> None:
    """Rename what cannot be written to: folders called like a run's files, files like its folders.

    Args:
        folder: The folder, held.
    """
    for name in (*FILES, *FOLDERS):
        path = folder / name
        fits = path.is_file() if name in FILES else path.is_dir()
        if os.path.lexists(path) and not fits:
            _log.warning("%s: expected what a run writes, set aside as %s", path, set_aside(path))


def move_aside(folder: Path) -> Path | None:
    """Rename the folder of an earlier run, so that nothing is lost or mixed.

    Args:
        folder: The folder; one without metrics is left as it is.

    Returns:
        Its new name, if it has one.

    Raises:
        CheckpointError: If a run that lives writes to it.
    """
    folder = folder.resolve()
    if not (folder / metrics.FILE).exists() or status.read_status(folder).state is None:
        return None
    with hold(folder):
        return set_aside(folder)


def write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write JSON lines; no records make no file.

    Args:
        path: The file; its folder is made.
        records: What is written.
    """
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(lines))
