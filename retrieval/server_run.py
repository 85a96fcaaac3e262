"""The server as a process: what `at2po serve` does."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from retrieval.cache import CachedRetriever
from retrieval.passages import Retriever
from retrieval.remote_errors import ServerStartError
from retrieval.server import create_app
from retrieval.server_protocol import Limits, describe

_log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a retriever to Search-R1's clients and ours; stop it with Ctrl-C."""

    index: str
    """The retriever, such as `bm25:FOLDER`."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen at."""
    topk: int = 3
    """Passages per query where a client names no number."""
    max_topk: int = 100
    """Most passages per query."""
    max_queries: int = 512
    """Most queries in a request."""
    max_batch: int = 64
    """Most queries of concurrent requests that are searched together."""
    max_waiting: int = 1024
    """Most queries that wait; more are answered 503."""
    deadline_s: float = 30.0
    """Seconds until a request that has no answer yet is answered 504."""
    cache: Path | None = None
    """Folder of the persistent cache; none by default."""
    cache_gib: float = 1.0
    """Size of the cache in GiB."""
    token_variable: str = "AT2PO_SERVER_TOKEN"
    """Environment variable that holds the bearer token; no token is asked for where it is unset."""


def serve(options: ServeOptions, open_retriever: Callable[[str], Retriever]) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was accepted and return.

    The port is open, and ``/health`` answers 503, while the retriever is being loaded.

    Args:
        options: What to serve, where, and how much of it.
        open_retriever: Opens ``options.index``.

    Raises:
        ServerStartError: If the retriever cannot be opened, the port cannot be bound, or the token
            is empty.
        SearchArgumentError: If an option is out of range.
    """
    token = os.environ.get(options.token_variable)
    if token is not None and not token.strip():
        raise ServerStartError(
            f"expected a token in {options.token_variable}, found an empty value; set one, or "
            "unset the variable to serve without"
        )
    if token is None and options.host not in _LOOPBACK:
        _log.warning(
            "everyone who reaches %s can search: set %s to ask for a token",
            options.host,
            options.token_variable,
        )
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        lambda: _cached(open_retriever(options.index), options),
        default_topk=options.topk,
        limits=Limits(max_topk=options.max_topk, max_queries=options.max_queries),
        max_batch=options.max_batch,
        max_waiting=options.max_waiting,
        deadline_s=options.deadline_s,
        token=token,
        on_failure=failed,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,  # longer than clients keep an idle connection, so they close it
            timeout_graceful_shutdown=math.ceil(options.deadline_s) + 1,
        )
    )
    _log.info("serving %s at http://%s:%d", options.index, options.host, options.port)
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it could not listen; it has logged why
        if server.started:  # what the command makes of a signal, after all is answered
            raise
        raise ServerStartError(
            f"expected to listen at {options.host}:{options.port}, found it taken or forbidden; "
            "choose another --port or --host"
        ) from None
    if failures:
        raise ServerStartError(f"{options.index} could not be opened: {failures[0]}") from failures[
            0
        ]


def _cached(retriever: Retriever, options: ServeOptions) -> Retriever:
    if options.cache is None:
        return retriever
    identity = describe(retriever)
    if identity.index_hash is None:
        raise ServerStartError(
            f"expected an index with a hash for the cache, found {options.index} without; build "
            "one with `at2po index build`, or serve without --cache"
        )
    name = f"{identity.retriever} {identity.index_hash}"
    return CachedRetriever(retriever, options.cache, name, int(options.cache_gib * 2**30))
