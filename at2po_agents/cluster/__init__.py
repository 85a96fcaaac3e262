"""Runs of many processes: Ray places collectors and the learner's ranks, and faults are survived.

Importing this package imports no Ray: only `cluster.workers` does.
"""

from at2po_agents.cluster.options import ClusterOptions

__all__ = ["ClusterOptions"]
