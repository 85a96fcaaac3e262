"""What a retrieval server counts, in a Prometheus registry of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from retrieval.cache import CachedRetriever
from retrieval.http.server.batcher import Batcher

_PREFIX = "at2po_retrieval"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Latencies, batch sizes, queue length and cache hits of one application."""

    media_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        histogram = partial(Histogram, registry=self._registry)
        text = "Time from a request to its reply."
        self._requests = histogram(f"{_PREFIX}_request_seconds", text, ["status"], buckets=_SECONDS)
        text = "Time of one call of the retriever."
        self._searches = histogram(f"{_PREFIX}_search_seconds", text, buckets=_SECONDS)
        text, sizes = "Queries in one call of the retriever.", [2**power for power in range(11)]
        self._batches = histogram(f"{_PREFIX}_batch_queries", text, buckets=sizes)
        text, name = "Connections that the server ended, by why.", f"{_PREFIX}_connections_ended"
        self._ended = Counter(name, text, ["reason"], registry=self._registry)

    def watch(self, batcher: Batcher) -> None:
        """Report the queue of this batcher and the cache of its retriever."""
        for name, text, read in (
            ("waiting_queries", "Queries that wait for the retriever.", lambda: batcher.waiting),
            ("busy_seconds", "Time of the search under way; 0 if none.", lambda: batcher.busy_s),
        ):
            gauge = Gauge(f"{_PREFIX}_{name}", text, registry=self._registry)
            gauge.set_function(read)
        self._registry.register(_CacheCounts(batcher))

    def answered(self, status: int, seconds: float) -> None:
        """Count a reply."""
        self._requests.labels(str(status)).observe(seconds)

    def ended(self, reason: str) -> None:
        """Count a connection that was ended before its client did."""
        self._ended.labels(reason).inc()

    def searched(self, queries: int, seconds: float) -> None:
        """Count a call of the retriever."""
        self._batches.observe(queries)
        self._searches.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)


class _CacheCounts(Collector):
    """Reads the cache's own counts when they are asked for; none without a cache."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def collect(self) -> Iterator[Metric]:
        cache = self._batcher.retriever
        if isinstance(cache, CachedRetriever):
            for name, count in (("hits", cache.hits), ("misses", cache.misses)):
                text = f"Queries that were {name} of the cache."
                yield CounterMetricFamily(f"{_PREFIX}_cache_{name}", text, value=count)
