"""The command that takes a model out of a run: export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from at2po_agents.cli.terminal import out
from at2po_agents.settings import PATHS


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a checkpoint's model as a plain folder of transformers, in the run's number format."""

    checkpoint: Positional[Path]
    """Folder of a run, whose newest whole checkpoint is taken, or of a checkpoint."""
    out: Positional[Path]
    """Folder to write; it must not exist."""


def export(arguments: Sequence[str]) -> None:
    """Write a checkpoint's model as a plain folder, for evaluations, servers and other trainers."""
    config = tyro.cli(ExportConfig, args=arguments, prog="at2po export", registry=PATHS)
    from at2po_agents.training.export_policy import export_model  # a module that needs torch

    found = export_model(config.checkpoint, config.out)
    out.print(f"step {found.step} of {found.path}: {config.out}", soft_wrap=True)
