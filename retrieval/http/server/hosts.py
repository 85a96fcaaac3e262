"""Which names a client may call the server by: a web page must not reach it under its own name."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.errors import SearchArgumentError
from retrieval.http.server.refusals import RefusedError, refusal

_HOST = re.compile(r"(\[[^\[\]/]*\]|[^:\[\]/\s]*)(?::\d*)?")


def known_names(allowed: Collection[str]) -> frozenset[str]:
    """Return the names to take: `localhost`, this machine's own, and others.

    Args:
        allowed: The others; `*` takes all.

    Raises:
        SearchArgumentError: If one of them is no name of a host.
    """
    own = socket.gethostname()
    names = set()
    for host in ("localhost", own, own.partition(".")[0], *filter(None, allowed)):
        if (name := _name(host)) is None:
            raise SearchArgumentError(
                f"expected names of hosts to allow, such as retriever.lan, found {host!r}"
            )
        names.add(name)
    return frozenset(names - {""})


class HostCheck:
    """Refuses requests whose `Host` names another machine.

    A page of a foreign site can have its own name resolve to this server's address (DNS rebinding);
    the browser then lets it read the replies, and sends that name. An address written as a number
    cannot be made to resolve to anything else, so it is always taken.

    Args:
        app: What answers the other requests.
        names: From `known_names`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            sent = [value for name, value in scope["headers"] if name == b"host"]
            if not all(self._takes(each.decode("latin-1")) for each in sent):
                response = refusal(_stranger(sent[0].decode("latin-1")))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _takes(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        return "*" in self._names or name in self._names or is_address(name)


def _name(host: str) -> str | None:
    """Return the host without its port, as hosts are compared; None if it is none."""
    match = _HOST.fullmatch(host)
    return match[1].lower().rstrip(".") if match else None


def is_address(host: str) -> bool:
    """Say whether a host is written as a number: IPv4, or IPv6 with or without brackets."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a server that listens at this host."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def _stranger(host: str) -> RefusedError:
    return RefusedError(
        421,
        "unknown_host",
        "expected a Host header with an IP address, localhost or a name that this server goes by, "
        f"found {host!r:.100}; fix: call the server by one of these, or start it with "
        "--allowed-hosts NAME",
    )
