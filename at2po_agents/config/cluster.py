"""Settings of a run of many processes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Literal

from at2po_agents.errors import ConfigError
from at2po_agents.settings import Count, CountOrZero, Range, Seconds, Settings

Transport = Literal["object-store", "nixl", "cuda_ipc"]

_Gpus = Annotated[float, Range(0, 1024)]


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Settings):
    """Rollout workers and learner workers, where Ray starts the processes."""

    group = "cluster."
    rollout_workers: CountOrZero = 0
    """Processes that roll out, each with an engine; 0 uses no Ray: this process does all, or the
    ranks of torchrun."""
    learner_workers: Count = 1
    """Ranks of the learner: a data-parallel group that shards its weights by FSDP2."""
    address: str = ""
    """Address of a Ray cluster, or `auto` for the one of this machine; empty starts one here."""
    rollout_worker_gpus: _Gpus = 0
    """GPUs of each rollout worker."""
    learner_worker_gpus: _Gpus = 0
    """GPUs of each learner worker."""
    transport: Transport = "object-store"
    """How weights travel: through the memory of the CPU (Ray's object store); from GPU to GPU by
    NIXL (NVLink, RDMA; needs the package nixl); or, where rollout worker i and learner worker i
    share a GPU, by handles of CUDA memory."""
    colocate: bool = False
    """Put rollout worker i and learner worker i on one GPU, which they use in turns."""
    staleness: CountOrZero = 0
    """Most updates by which the weights that sampled a tree may be behind; 0 is on policy."""
    stall_s: Seconds = 600.0
    """Seconds without any progress after which a process counts as hung."""
    max_restarts: CountOrZero = 10
    """Times that the same rollout worker may be replaced, and that all learner workers may begin
    again; one more ends the run. `--resume` counts from 0 again."""

    def __post_init__(self) -> None:
        """Check what has to fit together, too."""
        super().__post_init__()
        apart = self.learner_workers > 1 or self.staleness or self.colocate
        if apart and not self.rollout_workers:
            raise ConfigError(
                "cluster.rollout_workers: expected at least 1 where learner_workers, staleness or "
                "colocate are set, found 0"
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
        if self.colocate and self.rollout_workers != self.learner_workers:
            raise ConfigError(
                "cluster.colocate: expected as many rollout_workers as learner_workers, found "
                f"{self.rollout_workers} and {self.learner_workers}"
            )
