"""A server process for the fault tests: serves a retriever that repeats the query.

`python echo_server.py PORT INDEX_HASH SECONDS_PER_SEARCH DEADLINE_S MAX_WAITING`
"""

from __future__ import annotations

import sys
import time

from retrieval import Passage
from retrieval.http.server.run import ServeOptions, serve


class Echo:
    def __init__(self, index_hash: str, seconds: float) -> None:
        self.index_hash, self.seconds = index_hash, seconds

    def search(self, queries, k):
        if queries != ["warm up"]:
            time.sleep(3600 if "hang" in queries else self.seconds)
        return [
            [Passage(f"{q}/{i}", q, self.index_hash, 1 / (i + 3)) for i in range(k)]
            for q in queries
        ]


if __name__ == "__main__":
    port, index_hash, seconds, deadline_s, waiting = sys.argv[1:]
    options = ServeOptions(
        index=index_hash, port=int(port), deadline_s=float(deadline_s), max_waiting=int(waiting)
    )
    serve(options, lambda name: Echo(name, float(seconds)))
