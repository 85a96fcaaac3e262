"""Experiment trackers by option: wandb and trackio, imported only where they are asked for."""

from __future__ import annotations

import importlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, cast

from at2po_agents.errors import MetricsError
from retrieval.storage.files import write_whole

TrackerName = Literal["none", "wandb", "trackio"]
PROJECT = "at2po"


class Tracker(Protocol):
    """What wandb and trackio have in common."""

    def log(self, values: Mapping[str, object], step: int) -> object:
        """Send the values of a step."""

    def finish(self) -> object:
        """End the run."""


class _Package(Tracker, Protocol):
    def init(self, **options: object) -> object: ...


def open_tracker(
    name: TrackerName, run_dir: Path, settings: Mapping[str, object], *, resumed: bool = False
) -> Tracker | None:
    """Begin a run of a tracker, or go on with it.

    Args:
        name: Which one.
        run_dir: Folder of the run; the tracker's run is called like it.
        settings: What the tracker shows as the run's configuration, JSON-able.
        resumed: Whether the run goes on; wandb finds its own by the id in `run_dir/wandb_id`.

    Returns:
        The tracker, None for "none".

    Raises:
        MetricsError: If its package is missing.
    """
    if name == "none":
        return None
    try:
        package = cast(_Package, importlib.import_module(name))
    except ImportError:
        raise MetricsError(
            f"tracker: expected the package {name}, found none; run: pip install {name}, "
            "or leave the tracker out (TensorBoard files are written anyway)"
        ) from None
    more: dict[str, str] = {}
    if name == "wandb":
        file = run_dir / "wandb_id"
        own = file.read_bytes() if resumed and file.is_file() else b""
        if not re.fullmatch(rb"[0-9a-f]{8}", own):
            own = secrets.token_hex(4).encode("ascii")
            write_whole(file, own)
        more = {"dir": str(run_dir), "id": own.decode("ascii")}
    package.init(project=PROJECT, name=run_dir.name, config=dict(settings), resume="allow", **more)
    return package
