"""Where Ray's actors are: the connection to a cluster, and GPUs that two of them share."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.errors import WorkersLostError


def connect(options: ClusterOptions) -> bool:
    """Connect to Ray; return whether this began the connection, and so has to end it."""
    if ray.is_initialized():
        return False
    with _sigterm_kept():
        if options.address:
            ray.init(address=options.address, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",  # whatever else runs here
                num_cpus=max(
                    os.cpu_count() or 1, options.rollout_workers + options.learner_workers
                ),
                include_dashboard=False,
                logging_level=logging.WARNING,
            )
    return True


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's ends the process on the spot, without its records."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():  # only that one may set it
        signal.signal(signal.SIGTERM, before)


def reserve(options: ClusterOptions) -> PlacementGroup | None:
    """Reserve a GPU for every pair of rollout worker and learner worker that share one.

    Returns:
        The placement group, whose bundle i is for pair i; None where nothing is shared.

    Raises:
        WorkersLostError: If the cluster has no room for it.
    """
    if not options.colocate:
        return None
    bundle = {"CPU": 2.0}
    if gpus := options.rollout_worker_gpus + options.learner_worker_gpus:
        bundle["GPU"] = gpus
    places = placement_group([bundle] * options.learner_workers, strategy="PACK")
    if not places.wait(options.stall_s):
        raise WorkersLostError(
            f"expected room for {options.learner_workers} x {bundle} in the Ray cluster, found "
            f"{ray.cluster_resources()}; lower cluster.learner_workers, or add machines"
        )
    return places
