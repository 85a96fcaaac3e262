"""The server as a process: what `at2po serve` does."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from starlette.applications import Starlette

from retrieval.cache import CachedRetriever
from retrieval.errors import SearchArgumentError
from retrieval.http.errors import ServerStartError
from retrieval.http.messages import TOKEN_VARIABLE, Limits, describe, is_token
from retrieval.http.server.app import create_app
from retrieval.http.server.connection import Connection, ConnectionBounds, fitting
from retrieval.http.server.hosts import is_loopback
from retrieval.http.server.logs import few_alike
from retrieval.protocol import Retriever

_log = logging.getLogger(__name__)

_CHATTY = ("asyncio", "uvicorn.error", "retrieval.http.server.app", "retrieval.http.server.batcher")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a retriever to Search-R1's clients and ours; stop it with Ctrl-C.

    The environment variable AT2PO_SERVER_TOKEN sets the bearer token that clients must send.
    """

    index: str
    """The retriever, such as `bm25:FOLDER`."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen at."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may call the server, besides localhost, this machine's name, `host`
    and IP addresses; `*` takes all."""
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
    max_connections: int = 1024
    """Most connections; others take the place of those that have long sent no whole request."""
    head_timeout_s: float = 10.0
    """Seconds for the head of a request, from its first byte to its end."""
    cache: Path | None = None
    """Folder of the persistent cache; none by default."""
    cache_gib: float = 1.0
    """Size of the cache in GiB."""


def serve(options: ServeOptions, open_retriever: Callable[[str], Retriever]) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was accepted and return.

    The port is open, and `/health` answers 503, while the retriever is being loaded.

    Args:
        options: What to serve, where, and how much of it.
        open_retriever: Opens `options.index`.

    Raises:
        ServerStartError: If the retriever cannot be opened, the port cannot be bound, or the token
            is none that can be sent.
        SearchArgumentError: If an option is out of range.
    """
    token = _token(options)
    if not 0 <= options.port <= 65_535 or not 0 < options.cache_gib <= 2**20:
        raise SearchArgumentError(
            "expected a port from 0 to 65535 and 0 < cache_gib <= 2**20, found "
            f"{options.port} and {options.cache_gib}"
        )
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
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
        allowed_hosts=(options.host, *options.allowed_hosts),
        on_failure=failed,
    )
    connections, backlog = fitting(options.max_connections)
    bounds = ConnectionBounds(
        max_connections=connections,
        head_timeout_s=options.head_timeout_s,
        reply_timeout_s=options.deadline_s,
        ended=app.state.metrics.ended,
    )
    server = make_server(app, bounds, host=options.host, port=options.port, backlog=backlog)
    _log.info("serving %s at http://%s:%d", options.index, options.host, options.port)
    try:
        with few_alike(*_CHATTY):
            server.run()
    except (SystemExit, UnicodeError):  # uvicorn could not listen, or the host is no name at all
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


def make_server(
    app: Starlette, bounds: ConnectionBounds, *, host: str, port: int, backlog: int = 256
) -> uvicorn.Server:
    """Make the server of an application, with bounded connections.

    Args:
        app: From `create_app`.
        bounds: What a connection may take.
        host: Address to listen at.
        port: Port to listen at; 0 chooses a free one.
        backlog: Most connections that the system accepts before they are looked at, >= 1.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=cast(type[asyncio.Protocol], partial(Connection, bounds=bounds)),
            ws="none",
            backlog=backlog,
            proxy_headers=False,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,  # longer than clients keep an idle connection, so they close it
            timeout_graceful_shutdown=math.ceil(bounds.reply_timeout_s) + 1,
        )
    )


def _token(options: ServeOptions) -> str | None:
    """Return the token to ask for, and warn where everybody may do without."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and not is_token(token):
        raise ServerStartError(
            f"expected a token of visible characters in {TOKEN_VARIABLE}, found "
            f"{'others' if token.strip() else 'an empty value'}; set one, or unset the variable to "
            "serve without"
        )
    if token is None and not is_loopback(options.host):
        _log.warning(
            "everyone who reaches %s can search: set %s to ask for a token",
            options.host,
            TOKEN_VARIABLE,
        )
    return token


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
