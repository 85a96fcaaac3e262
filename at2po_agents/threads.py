"""Threads that compute: how many, and how they wait for each other; chosen before torch is loaded.

Threads of OpenMP that wait spin: on a quiet machine that is the fastest, but beside other work each
spins away the time that the one it waits for would need. Sleeping costs a third more on a quiet
machine. Results depend on the number of threads, never on how they wait.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import MutableMapping
from pathlib import Path

_log = logging.getLogger(__name__)

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# As fast as libgomp's own 300,000 where all is quiet, and far less lost where it no longer is.
_SPINS = "1000"


def choose(environ: MutableMapping[str, str] = os.environ) -> None:
    """Choose the number of threads and how they wait, unless the user has.

    `OMP_NUM_THREADS` becomes the number of CPUs where a container may use fewer than it sees.
    `OMP_WAIT_POLICY` becomes PASSIVE where other processes leave fewer CPUs free than there are
    threads; else `GOMP_SPINCOUNT` becomes a short wait.

    Args:
        environ: Changed; torch reads it when it is loaded.
    """
    seen = len(os.sched_getaffinity(0))
    allowed = _allowed(seen)
    if allowed < seen and "OMP_NUM_THREADS" not in environ:
        environ["OMP_NUM_THREADS"] = str(allowed)
        _log.info("threads: %d, as many as this container's share of %d CPUs", allowed, seen)
    asked = environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() else allowed
    if threads < 2 or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environ.keys():
        return
    free = _free_cpus()
    if free < threads - 0.5:
        environ["OMP_WAIT_POLICY"] = "PASSIVE"
        _log.info("threads: %d that sleep while they wait; %.1f CPUs are free", threads, free)
    else:
        environ["GOMP_SPINCOUNT"] = _SPINS


def keep(before: int) -> int:
    """Set the number of threads of torch that a run has, and return it.

    Args:
        before: What the run had before it was resumed; 0 takes the number of this process.
    """
    import torch

    here = torch.get_num_threads()
    if before not in (0, here):
        _log.info(
            "the run keeps its %d threads (%d here): results repeat for a number of threads",
            before,
            here,
        )
    # Naming the number keeps MKL from choosing it call by call: otherwise two processes, only one
    # of which has ever named it, round differently.
    torch.set_num_threads(before or here)
    return before or here


def _allowed(seen: int) -> int:
    """CPUs that the limit of a container is worth, whole ones."""
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return seen
    return seen if quota == "max" else min(seen, max(1, math.floor(int(quota) / int(period))))


def _free_cpus() -> float:
    """CPUs of this process that are idle, by the machine's load in the last minute."""
    cpus = len(os.sched_getaffinity(0))
    try:
        load = os.getloadavg()[0]
    except OSError:  # the system does not tell
        return cpus
    return cpus * max(0.0, 1 - load / (os.cpu_count() or cpus))
