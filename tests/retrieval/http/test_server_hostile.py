"""Slow, silent, broken and hostile clients: they get an end and the others their answers."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")

from retrieval import Passage
from retrieval.errors import IndexFormatError, SearchArgumentError
from retrieval.http.errors import ServerStartError
from retrieval.http.server import connection as server_connection
from retrieval.http.server.connection import ConnectionBounds, fitting
from retrieval.http.server.logs import FewAlike, few_alike
from tests.retrieval.http.live_server import Echo, Gate, get, live, parse, post, read_all

ENDED = 'at2po_retrieval_connections_ended_total{reason="%s"}'
BUSY = "at2po_retrieval_busy_seconds"
WAITING = "at2po_retrieval_waiting_queries"
CHUNKED = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
CHUNKED += b"Content-Type: application/json\r\n\r\n"
LARGE_HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000


class Long:
    """Finds passages of 64 KiB: replies that no socket takes at once."""

    def search(self, queries, k):
        return [[Passage("1", "t", "x" * 2**16, 1.0)] * k for _ in queries]


@pytest.fixture(scope="module")
def server():
    with live() as running:
        yield running


@pytest.fixture(scope="module")
def hasty():
    settings = {"deadline_s": 0.3, "allowed_hosts": ["Node7.LAN:8000"]}
    with live(bounds={"head_timeout_s": 0.2}, **settings) as running:
        yield running


# Time


def test_a_silent_connection_is_closed(hasty):
    with hasty.connect() as connection:
        assert read_all(connection) == b""
    hasty.wait_for(ENDED % "slow_head", 1)


@pytest.mark.parametrize(
    "part",
    [b"P", b"POST /retrieve HT", b"GET /health HTTP/1.1\r\nX-Y: z\r\n", post("a")[:-1]],
)
def test_a_part_of_a_request_is_told_so(hasty, part):
    status, headers, body = parse(hasty.say(part))
    what = "slow_body" if part in post("a") and b"Content-Length" in part else "slow_head"
    assert (status, headers["connection"], body["error"]) == (408, "close", what)


@pytest.mark.parametrize("before", [b"", get("/health", close=False), get("/no", close=False)])
def test_a_head_that_drips_in_is_cut_off(hasty, before):
    """Without an end, it would be whole after as many bytes."""
    with hasty.connect() as connection:
        connection.sendall(before)
        try:
            for i in range(1000):
                connection.sendall(get("/health", "X: " + "x" * 900)[i : i + 1])
                time.sleep(0.005)
        except OSError:
            pass  # closed in the middle
        assert read_all(connection).count(b'"limits"') == before.count(b"/health")


def test_what_follows_a_reply_to_half_a_request_is_read_for_a_while_only(hasty):
    """The page is answered at once; its body would never end."""
    with hasty.connect() as connection:
        connection.sendall(
            b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
        )
        with pytest.raises(OSError):  # noqa: PT011 - broken pipe or reset
            for _ in range(4000):
                connection.sendall(b"x")
                time.sleep(0.005)


def test_body_and_search_share_one_deadline():
    """The body takes most of it, so that the search has a little."""
    gate = Gate()
    with live(gate, deadline_s=0.5) as server, server.connect() as connection:
        connection.sendall(post("a")[:-1])
        time.sleep(0.3)
        connection.sendall(post("a")[-1:])
        status, _, body = parse(read_all(connection))
        assert (status, body["error"]) == (504, "deadline_exceeded")
        gate.open.set()


def test_a_reply_that_nobody_reads_is_given_up(monkeypatch):
    monkeypatch.setattr(server_connection, "_SLOWEST_READER", 2**30)
    with live(Long(), {"reply_timeout_s": 0.1}) as server, server.connect() as connection:
        connection.sendall(post(*"abcd", topk=50))  # 12 MiB
        server.wait_for(ENDED % "slow_reader", 1)


@pytest.mark.slow
def test_who_reads_one_long_reply_after_the_other_is_not_given_up(monkeypatch):
    """The clock of a reply begins again with each, so that it cannot run out during a later one."""

    monkeypatch.setattr(server_connection, "_SLOWEST_READER", 2**40)
    with live(Long(), {"reply_timeout_s": 5.0}) as server, server.connect() as connection:
        reader = connection.makefile("rb")
        for _ in range(4):
            connection.sendall(post(*"abcd", topk=50, close=False))  # 12 MiB
            length = 0
            while (line := reader.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            time.sleep(1.5)
            assert len(reader.read(length)) == length > 10 * 2**20
        reader.close()
        assert server.metric(ENDED % "slow_reader") == 0


def test_who_reads_nothing_makes_room_for_others():
    with live(Long(), {"max_connections": 2, "reply_timeout_s": 3600}) as server:
        deaf = [server.connect() for _ in range(2)]
        for each in deaf:
            each.sendall(post(*"abcd", topk=50, close=False) * 2)  # the second waits for the first
        server.wait_for("at2po_retrieval_request_seconds_count", 4)
        assert parse(server.say(post("a", topk=1)))[0] == 200
        server.wait_for(ENDED % "evicted", 1)
        for each in deaf:
            each.close()


def test_the_slowest_readers_end_where_all_leave_too_much(monkeypatch):
    monkeypatch.setattr(server_connection, "_MOST_UNREAD", 2**24)
    with live(Long(), {"reply_timeout_s": 3600}) as server:
        first, second = server.connect(), server.connect()
        first.sendall(post(*"abcd", topk=50))  # 12 MiB
        server.wait_for("at2po_retrieval_request_seconds_count", 1)
        second.sendall(post(*"abcd", topk=50))
        server.wait_for(ENDED % "slow_reader", 1)
        status, _, body = parse(read_all(second))
        assert (status, len(body["result"])) == (200, 4)
        first.close(), second.close()


# Broken requests


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
        b"hello\r\n\r\n",
        b"GET / HTTP/99\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",  # no host
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        LARGE_HEAD,
        CHUNKED + b"nonsense\r\n",
    ],
)
def test_what_is_no_http_gets_an_error_in_json(server, data):
    status, headers, body = parse(server.say(data))
    assert (status, headers["connection"], body["error"]) == (400, "close", "malformed_request")
    assert body["detail"].startswith("expected ")


def test_nonsense_after_a_whole_request_spoils_no_reply(server):
    with server.connect() as connection:
        connection.sendall(get("/health", close=False) + b"\0\0\0\r\n\r\n")
        replies = read_all(connection)
    assert replies.count(b"HTTP/1.1 200") == 1 and replies.count(b"HTTP/1.1 400") == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from([get("/health", close=False), post("a", close=False), b"\r\n", b"0\r\n"])
        | st.builds(lambda data, end: data[:end], st.just(post("ab")), st.integers(0, 150)),
        max_size=4,
    ),
    st.booleans(),
)
def test_nothing_that_is_sent_is_an_error_of_the_server(server, pieces, half_close):
    errors = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = errors.append
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addHandler(handler)
    try:
        with server.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(1)
                read_all(connection)
    except OSError:
        pass  # closed in the middle
    assert b'"ready":true' in server.say(get("/health"))
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).removeHandler(handler)
    assert errors == []


def test_an_upload_that_is_broken_off_is_counted_and_no_error(caplog):
    with live() as server:
        for _ in range(5):
            with server.connect() as connection:
                connection.sendall(post("a")[:-5])
        server.wait_for('at2po_retrieval_request_seconds_count{status="499"}', 5)
        assert parse(server.say(post("a")))[0] == 200
    assert {record.levelno for record in caplog.records} <= {logging.INFO, logging.WARNING}
    assert "broke off" in caplog.text


def test_a_sender_that_half_closes_is_answered(server):
    gate_free = post("a", close=False) + get("/health", close=False) + post("b", close=False)
    with server.connect() as connection:
        connection.sendall(gate_free)
        connection.shutdown(1)
        replies = read_all(connection)
    assert replies.count(b"HTTP/1.1 200") == 3
    assert replies.index(b'"a/0"') < replies.index(b'"ready"') < replies.index(b'"b/0"')


# Trust


@pytest.mark.parametrize(
    "host",
    "localhost LOCALHOST:80 localhost. 127.0.0.1:8000 [::1]:8000 10.0.0.7 node7.lan".split(),
)
def test_known_hosts_are_answered(hasty, host):
    assert parse(hasty.say(post("a", host=host)))[0] == 200


def test_every_host_may_be_allowed():
    with live(allowed_hosts=["*"]) as server:
        assert parse(server.say(post("a", host="evil.example")))[0] == 200


@pytest.mark.parametrize(
    "host",
    "evil.example evil.example:8000 localhost.evil.example 127.0.0.1.evil.example evil "
    "0x7f000001 127.1 localhost@evil.example [::1].evil.example localhost:80:80".split()
    + [""],
)
@pytest.mark.parametrize("path", ["/retrieve", "/health", "/metrics", "/nowhere"])
def test_a_foreign_host_is_refused_everywhere(server, host, path):
    request = post("a", host=host) if path == "/retrieve" else get(path, host=host)
    status, headers, body = parse(server.say(request))
    assert (status, body["error"]) == (421, "unknown_host")
    assert "location" not in headers and "--allowed-hosts" in body["detail"]


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        (None, False),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data", False),
        ("application/jsonx", False),
        ("text/plain; application/json", False),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
    ],
)
def test_only_json_is_taken_in_all_its_spellings(server, kind, taken):
    status, _, body = parse(server.say(post("a", kind=kind)))
    assert (status, body.get("error")) == (
        (200, None) if taken else (415, "unsupported_media_type")
    )


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (get("/"), 404, "not_found"),
        (get("/docs"), 404, "not_found"),
        (get("/health/"), 404, "not_found"),
        (post("a", path="/retrieve/"), 404, "not_found"),
        (post("a", path="//evil.example/retrieve"), 404, "not_found"),
        (get("/retrieve"), 405, "method_not_allowed"),
        (post("a", path="/health"), 405, "method_not_allowed"),
        (get("/health").replace(b"GET", b"BREW"), 405, "method_not_allowed"),
    ],
)
def test_unknown_pages_and_methods_are_errors_in_json_and_no_redirects(
    server, request_, status, error
):
    found, headers, body = parse(server.say(request_))
    assert (found, body["error"]) == (status, error)
    assert "location" not in headers and "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (IndexFormatError("/srv/index/passages: corrupt"), "found an error"),
        ([[Passage("1", "t", "x", float("nan"))]], "JSON"),
        ([[{"id": "/srv/index"}]], "JSON"),
        ([], "expected one list for each of 1 queries, found 0"),
        (None, "found an error"),
    ],
    ids=repr,
)
def test_what_goes_wrong_inside_is_not_told_outside(answer, told, caplog):
    class Wrong:
        def search(self, queries, k):
            if queries != ["warm up"] and isinstance(answer, Exception):
                raise answer
            return Echo().search(queries, k) if queries == ["warm up"] else answer

    with live(Wrong()) as server:
        reply = server.say(post("a", return_scores=True))
        status, _, body = parse(reply)
    assert (status, body["error"]) == (500, "retriever_failed") and told in body["detail"]
    assert b"/srv" not in reply and b"Error" not in reply.partition(b"\r\n\r\n")[2]
    assert any(record.exc_info for record in caplog.records)


def test_an_upgrade_is_not_followed_and_not_complained_about(server, caplog):
    upgrade = ("Upgrade: websocket", "Connection: upgrade, close")
    assert parse(server.say(get("/health", *upgrade, close=False)))[0] == 200
    assert caplog.records == []


# Numbers


def test_silent_connections_lock_nobody_out():
    with live(bounds={"max_connections": 4}) as server:
        silent = [server.connect() for _ in range(40)]
        assert parse(server.say(post("a")))[0] == 200
        server.wait_for(ENDED % "evicted", 30)
        for each in silent:
            each.close()


def test_who_has_been_answered_is_kept_before_who_has_asked_nothing():
    with live(bounds={"max_connections": 4}) as server, server.connect() as known:
        known.sendall(get("/health", close=False))
        while not known.recv(2**16).endswith(b"}"):
            pass
        silent = [server.connect() for _ in range(40)]
        server.wait_for(ENDED % "evicted", 30)
        known.sendall(post("a"))
        assert parse(read_all(known))[0] == 200
        for each in silent:
            each.close()


def test_where_all_are_busy_health_is_answered_and_the_rest_refused():
    gate = Gate()
    with live(gate, {"max_connections": 2}) as server:
        busy = [server.connect() for _ in range(2)]
        for each, name in zip(busy, (BUSY, WAITING), strict=True):
            each.sendall(post("a"))
            server.wait_for(name, 1e-9)
        assert parse(server.say(get("/health")))[2]["ready"] is True
        status, headers, body = parse(server.say(post("b")))
        assert (status, body["error"], headers["retry-after"]) == (503, "overloaded", "1")
        spare = [server.connect() for _ in range(4)]
        for each in spare:
            each.sendall(b"GET /metrics")
        assert parse(server.say(get("/health")))[2]["ready"] is True  # one of them made room
        gate.open.set()
        assert [parse(read_all(each))[0] for each in busy] == [200, 200]
        for each in (*spare, *busy):
            each.close()


def test_a_stop_waits_for_accepted_requests_only():
    gate = Gate()
    with live(gate, deadline_s=3600, bounds={"reply_timeout_s": 3600}) as server:
        silent, part, upload, whole = (server.connect() for _ in range(4))
        part.sendall(b"GET /heal")
        upload.sendall(post("a")[:-3])
        whole.sendall(post("a"))
        server.wait_for(BUSY, 1e-9)
        threading.Timer(0.2, gate.open.set).start()
        assert server.stop()
        assert parse(read_all(whole))[0] == 200
        for each in (silent, part, upload, whole):
            each.close()


# Settings and log


@pytest.mark.parametrize("change", [{"max_connections": 0}, {"head_timeout_s": float("nan")}])
def test_bounds_out_of_range_are_refused(change):
    with pytest.raises(SearchArgumentError, match="head_timeout_s"):
        ConnectionBounds(**change)


@pytest.mark.parametrize(
    ("limits", "connections", "backlog", "asked"),
    [
        ((20_000, 20_000), 1024, 1024, None),
        ((1024, 524_288), 1024, 1024, 10_288),
        ((1024, 1024), 533, 122, 1024),
        ((100, 100), 29, 6, 100),
        ((-1, -1), 1024, 1024, None),
    ],
)
def test_connections_fit_into_the_descriptors(monkeypatch, limits, connections, backlog, asked):
    set_to, resource = [], server_connection.resource
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: set_to.append(both[0]))
    assert fitting(1024) == (connections, backlog)
    assert set_to == ([] if asked is None else [asked])
    limits = 64, 64
    with pytest.raises(ServerStartError, match="ulimit -n"):
        fitting(1024)


def test_the_log_has_one_line_a_minute_of_a_kind_and_a_count():
    now, lines = [0.0], []
    log = logging.Logger("test")
    log.addFilter(FewAlike(60.0, lambda: now[0]))
    log.addHandler(handler := logging.Handler())
    handler.emit = lambda record: lines.append(record.getMessage())
    for i in range(1000):
        now[0] = i / 10  # 100 s
        log.warning("trouble %d", i)
        if i < 3:
            log.error("other trouble")
            log.info("progress")
    assert lines == [
        "trouble 0",
        "other trouble",
        "progress",
        "progress",
        "progress",
        "trouble 600 (599 more like this were left out)",
    ]

    with few_alike("test"):
        assert logging.getLogger("test").filters
    assert not logging.getLogger("test").filters
