"""Settings of a run of many processes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Literal

from at2po_agents.errors import ConfigError
from at2po_agents.settings import Count, CountOrZero, Range, Seconds, Settings

Transport = Literal["object-store", "broadcast", "nixl", "cuda_ipc"]

_Gpus = Annotated[float, Range(0, 1024)]


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Settings):
    """Processes that roll out and processes that learn, started by Ray."""

    group = "cluster."
    collectors: CountOrZero = 0
    """Processes that roll out, each with an engine; 0 uses no Ray: this process does all, or the
    ranks of torchrun."""
    learners: Count = 1
    """Ranks of the learner, a data-parallel process group that shards its weights by FSDP2."""
    address: str = ""
    """Address of a Ray cluster, or `auto` for the one of this machine; empty starts one here."""
    collector_gpus: _Gpus = 0
    """GPUs of each collector."""
    learner_gpus: _Gpus = 0
    """GPUs of each rank of the learner."""
    transport: Transport = "object-store"
    """How weights travel: through the memory of the CPU (Ray's object store); by one broadcast to
    all collectors (NCCL on GPUs, gloo on CPUs); from GPU to GPU by NIXL (NVLink, RDMA; needs the
    package nixl); or, where collector i and rank i share a GPU, by handles of CUDA memory."""
    colocate: bool = False
    """Put collector i and rank i on one GPU, which they use in turns."""
    staleness: CountOrZero = 0
    """Most updates by which the weights that sampled a tree may be behind; 0 is on policy."""
    stall_s: Seconds = 600.0
    """Seconds without any progress after which a process counts as hung; a broadcast of weights has
    as many in all."""
    max_restarts: CountOrZero = 10
    """Times that the same collector may be replaced, and that all ranks of the learner may begin
    again; one more ends the run. `--resume` counts from 0 again."""

    def __post_init__(self) -> None:
        """Check what has to fit together, too."""
        super().__post_init__()
        if not self.collectors and (self.learners > 1 or self.staleness or self.colocate):
            raise ConfigError(
                "cluster.collectors: expected at least 1 where learners, staleness or colocate "
                "are set, found 0"
            )
        if self.transport == "broadcast":
            self._check_broadcast()
        if self.transport == "cuda_ipc" and not self.colocate:
            raise ConfigError(
                "cluster.transport: expected cuda_ipc only with cluster.colocate, found GPUs that "
                "are not shared; choose broadcast or nixl"
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

    def _check_broadcast(self) -> None:
        """Refuse what a broadcast cannot do: all have to join, each with a GPU of its own."""
        if self.staleness:
            raise ConfigError(
                f"cluster.staleness: expected 0 with the transport broadcast, found "
                f"{self.staleness}: collectors at work cannot join; choose nixl or object-store"
            )
        if self.colocate:
            raise ConfigError(
                "cluster.transport: expected no broadcast with cluster.colocate, since NCCL takes "
                "one process a GPU; choose cuda_ipc"
            )
        gpus = (self.collector_gpus, self.learner_gpus)
        if any(gpus) and min(gpus) < 1:
            raise ConfigError(
                "cluster.transport: expected a whole GPU for every collector and rank, or none for "
                f"any of them, with the transport broadcast, found {gpus[0]:g} and {gpus[1]:g}; "
                "set cluster.collector_gpus and cluster.learner_gpus to 1, or choose object-store"
            )
