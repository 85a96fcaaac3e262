"""Settings of a run of many processes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from at2po_agents.errors import ConfigError
from at2po_agents.settings import COUNT, COUNT_OR_NONE, SECONDS, Range, check_ranges

Transport = Literal["object-store", "nixl", "cuda_ipc"]

_RANGES = {
    "collectors staleness max_restarts": COUNT_OR_NONE,
    "learners": COUNT,
    "collector_gpus learner_gpus": Range(0, 1024),
    "stall_s": SECONDS,
}


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Who rolls out and who learns, where Ray starts the processes."""

    collectors: int = 0
    """Processes that roll out, each with an engine; 0 uses no Ray: this process does all, or the
    ranks of torchrun."""
    learners: int = 1
    """DataParallelGroup of the learner, which share its weights by FSDP2."""
    address: str = ""
    """Address of a Ray cluster, or `auto` for the one of this machine; empty starts one here."""
    collector_gpus: float = 0
    """GPUs of each collector."""
    learner_gpus: float = 0
    """GPUs of each rank of the learner."""
    transport: Transport = "object-store"
    """How weights travel: through the memory of the CPU (Ray's object store); from GPU to GPU by
    NIXL (NVLink, RDMA; needs the package nixl); or, where collector i and rank i share a GPU, by
    handles of CUDA memory."""
    colocate: bool = False
    """Put collector i and rank i on one GPU, which they use in turns."""
    staleness: int = 0
    """Most updates by which the weights that sampled a tree may be behind; 0 is on policy."""
    stall_s: float = 600.0
    """Seconds without any progress after which a process counts as hung."""
    max_restarts: int = 10
    """Times that the same collector may be replaced, and that all ranks of the learner may begin
    again; one more ends the run. `--resume` counts anew."""

    def __post_init__(self) -> None:
        """Check ranges now rather than when the processes start."""
        check_ranges(self, _RANGES, prefix="cluster.")
        if not self.collectors and (self.learners > 1 or self.staleness or self.colocate):
            raise ConfigError(
                "cluster.collectors: expected at least 1 where learners, staleness or colocate "
                "are set, found 0"
            )
        if self.transport == "cuda_ipc" and not self.colocate:
            raise ConfigError(
                "cluster.transport: expected cuda_ipc only with cluster.colocate, found GPUs that "
                "are not shared; choose nixl"
            )
        if self.transport == "nixl" and importlib.util.find_spec("nixl") is None:
            raise ConfigError(
                "cluster.transport: expected the package nixl, found none; run: pip install nixl"
            )
        if self.colocate and self.collectors != self.learners:
            raise ConfigError(
                "cluster.colocate: expected as many collectors as learners, found "
                f"{self.collectors} and {self.learners}"
            )
