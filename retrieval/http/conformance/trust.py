"""Duties of a server that trusts nobody; checked of those whose `/health` names limits, as ours."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from retrieval.http.conformance.server_under_test import Server, SkippedError, expect, offered

_FOREIGN = "evil.example"
_WAIT_S = 30.0  # for what a server has to end by itself
_MOST = 2**20  # bytes of a reply to a plain connection
_PATH = re.compile(r"(?<![\w/.])/(?:[\w.-]+/)+[\w.-]+")
_UNKNOWN = {"GET /nowhere": 404, "GET /retrieve": 405, "POST /health": 405}


def _ours(server: Server) -> dict[str, Any]:
    body = offered(server, "/health").json()
    if not isinstance(body, dict) or "limits" not in body:
        raise SkippedError("the server names no limits")
    return body


def _error_of(body: Any, what: str) -> None:
    told = isinstance(body, dict) and isinstance(body.get("error"), str) and "detail" in body
    expect(told, f'JSON with "error" and "detail" for {what}', body)


def _errors(server: Server) -> None:
    _ours(server)
    for request, status in _UNKNOWN.items():
        method, path = request.split()
        reply = server.client.request(method, path, json={})
        expect(reply.status_code == status, f"status {status} for {request}", reply.status_code)
        _error_of(reply.json(), request)
    reply = server.post(queries=7)
    _error_of(reply.json(), "a wrong request")
    expect(not _PATH.search(reply.text), "no paths of its machine", reply.text)


def _foreign_host(server: Server) -> None:
    _ours(server)
    for method, path in (("POST", "/retrieve"), ("GET", "/health"), ("GET", "/metrics")):
        body = {"queries": [server.queries[0]]} if method == "POST" else None
        reply = server.client.request(method, path, json=body, headers={"Host": _FOREIGN})
        refused = 400 <= reply.status_code < 500
        expect(refused, f"a 4xx for {path} at the Host {_FOREIGN}", reply.status_code)
        expect(server.queries[0] not in reply.text, "no answer", reply.text)
        _error_of(reply.json(), "a foreign Host")


def _json_only(server: Server) -> None:
    _ours(server)
    body = json.dumps({"queries": [server.queries[0]]}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"Content-Type": kind} if kind else {}
        reply = server.client.post("/retrieve", content=body, headers=headers)
        expect(400 <= reply.status_code < 500, f"a 4xx for a body of type {kind}", reply)
    reply = server.client.options("/retrieve", headers={"Origin": f"http://{_FOREIGN}"})
    allowed = "Access-Control-Allow-Origin" in reply.headers
    expect(not allowed, "no other site to be allowed", reply.headers)


def _no_redirects(server: Server) -> None:
    _ours(server)
    for path in ("/retrieve/", "/health/", f"//{_FOREIGN}/retrieve"):
        url = server.client.base_url.copy_with(raw_path=path.encode())
        reply = server.client.post(url, json={"queries": ["a"]}, follow_redirects=False)
        redirects = 300 <= reply.status_code < 400
        expect(not redirects, f"no redirect for {path}", reply.headers.get("Location"))


def _tells_nothing(server: Server) -> None:
    said = json.dumps({k: v for k, v in _ours(server).items() if k != "limits"})
    expect(not _PATH.search(said), "no paths in /health", said)


def _half_closed(server: Server) -> None:
    with _connected(server) as connection:
        connection.sendall(_request(server, {"queries": [server.queries[0]], "topk": 1}))
        connection.shutdown(socket.SHUT_WR)
        reply = _read(connection)
    expect(b" 200 " in reply[:20], "an answer to a sender that half-closes", reply)


def _broken_off(server: Server) -> None:
    for _ in range(20):
        with _connected(server) as connection:
            connection.sendall(_request(server, {"queries": ["a"]})[:-5])
    expect(server.post(queries=["a"]).status_code == 200, "an answer after broken uploads", "none")


def _malformed(server: Server) -> None:
    for data in (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", b"X: " * 2**16):
        with _connected(server) as connection:
            connection.sendall(data)
            head, _, body = _read(connection).partition(b"\r\n\r\n")
        expect(b" 4" in head[:13], "a 4xx for what is no HTTP", head)
        _error_of(json.loads(body), "what is no HTTP")


def _endless_head(server: Server) -> None:
    with _connected(server) as silent, _connected(server) as part:
        part.sendall(b"GET /health HT")
        for connection, what in ((silent, "a silent connection"), (part, "half a head")):
            try:
                _read(connection)
            except TimeoutError:
                expect(False, f"an end of {what} within {_WAIT_S:g} s", "none")


def _connected(server: Server) -> socket.socket:
    _ours(server)
    if server.address is None:
        raise SkippedError("there is no address for plain connections")
    return socket.create_connection(server.address, timeout=_WAIT_S)


def _request(server: Server, fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    if token := server.client.headers.get("Authorization"):
        headers["Authorization"] = token
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["POST /retrieve HTTP/1.1", "Host: localhost", *lines, "", body]).encode()


def _read(connection: socket.socket) -> bytes:
    data, until = b"", time.monotonic() + _WAIT_S
    try:
        while chunk := connection.recv(2**16):
            data += chunk
            left = until - time.monotonic()
            if left <= 0 or len(data) > _MOST:
                raise TimeoutError
            connection.settimeout(left)
    except ConnectionResetError:
        pass
    return data


TRUST_CHECKS: dict[str, Callable[[Server], None]] = {
    "refusals are JSON": _errors,
    "a foreign Host is refused": _foreign_host,
    "only JSON is taken": _json_only,
    "nothing is redirected": _no_redirects,
    "GET /health tells nothing of the machine": _tells_nothing,
    "a half-closed request is answered": _half_closed,
    "uploads that are broken off do no harm": _broken_off,
    "what is no HTTP is refused in JSON": _malformed,
    "connections without a request are ended": _endless_head,
}
