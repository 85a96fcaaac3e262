"""Memory of this process, and its peak since a moment."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def forget_peak() -> None:
    """Give freed memory back and let the kernel measure the peak again, where it can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory(name: str) -> float:
    """Return a figure of /proc/self/status in MiB, NaN where there is none.

    Args:
        name: Such as "VmRSS" (held now) or "VmHWM" (held at most, since `forget_peak`).
    """
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii").splitlines() if status.exists() else []:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return float("nan")
