"""What a measurement was made with: machine, libraries, version of the source."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "at2po",
    "bm25s",
    "faiss-cpu",
    "gymnasium",
    "httpx2",
    "numba",
    "numpy",
    "pyserini",
    "regex",
    "torch",
    "transformers",
    "uvicorn",
)


def library_versions() -> dict[str, str]:
    """Return the version of Python and of each library that is installed, by name."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):  # at2po itself may run from its source folder
            found[name] = version(name)
    return found


def environment() -> dict[str, Any]:
    """Return a JSON-able record of what decides about speed and results on this machine."""
    import torch  # which only measurements of models have loaded

    return {
        "versions": library_versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": source_commit(),
    }


def _cpu() -> str:
    """Return the model name of the processor, or as much of it as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def source_commit() -> str | None:
    """Return the commit of the source, with "-dirty" behind it where files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # installed as a package, or no git on this machine
    return done.stdout.strip()
