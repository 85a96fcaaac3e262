"""Where Ray's actors are: the connection to a cluster, and GPUs that two of them share."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import placement_group

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
                num_cpus=max(os.cpu_count() or 1, options.collectors + options.learners),
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


def reserve(options: ClusterOptions) -> Any:
    """Reserve a GPU for every pair of collector and rank that share one.

    Returns:
        The placement group, whose bundle i is for pair i; None where nothing is shared.

    Raises:
        WorkersLostError: If the cluster has no room for it.
    """
    if not options.colocate:
        return None
    bundle = {"CPU": 2.0, "GPU": options.collector_gpus + options.learner_gpus}
    bundles = [{name: n for name, n in bundle.items() if n} for _ in range(options.learners)]
    places = placement_group(bundles, strategy="PACK")
    if not places.wait(options.stall_s):
        found: Any = ray.cluster_resources()
        raise WorkersLostError(
            f"expected room for {len(bundles)} x {bundles[0]} in the Ray cluster, found {found}; "
            "lower cluster.learners, or add machines"
        )
    return places


def as_actor(kind: type, resources: dict[str, Any]) -> Any:
    """Return an actor class whose `progress` answers while another method runs."""
    return ray.remote(concurrency_groups={"health": 1}, max_concurrency=1, **resources)(kind)
