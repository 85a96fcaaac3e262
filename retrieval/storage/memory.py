"""What an index needs and what the machine has, compared before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from retrieval.errors import NotEnoughMemoryError

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available_bytes() -> int | None:
    """Return how much more memory this process may take; None where the system does not tell.

    It is what the machine can give without swapping, or what is left of the control group's limit
    if that is less; page cache counts as free in the one and as taken in the other.
    """
    left = []
    if _MEMINFO.exists():
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        left += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in _CGROUPS:
        if limit.exists() and used.exists():
            bound = limit.read_text(encoding="ascii").strip()
            if bound.isdigit():
                left.append(int(bound) - int(used.read_text(encoding="ascii")))
    return max(0, min(left)) if left else None


def require_memory(needed: int, what: str, alternatives: str) -> None:
    """Refuse to load what does not fit.

    Args:
        needed: Estimate in bytes.
        what: What it is for.
        alternatives: What to do instead.

    Raises:
        NotEnoughMemoryError: If less is available.
    """
    free = available_bytes()
    if free is not None and needed > free:
        raise NotEnoughMemoryError(
            f"expected {gib(needed)} of free memory for {what}, found {gib(free)}; {alternatives}"
        )


def gib(size: int) -> str:
    """Write a number of bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"
