"""The monitoring port: NATS names and types, bounded pages, health, metrics, no secrets, and peers that misbehave."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker_node.hub import Timing
from broker_node.monitor import pages
from mq9.limits import MONITOR_CONNECTIONS_MAX, MONITOR_PAGE_MAX
from tests.broker.conftest import Host
from tests.broker.hosted import HOST, Hosted

SECRETS: dict[str, Any] = {"user": "agent", "password": "hunter2secret", "token": "t0kensecret"}


@pytest.fixture
def watched(host: Host) -> Hosted:
    return host(monitor_port=0)


def _get(hosted: Hosted, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(hosted.monitor_url + path, timeout=10) as response:  # noqa: S310  # our own server
            return response.status, response.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


def _page(hosted: Hosted, path: str) -> dict[str, Any]:
    status, body = _get(hosted, path)
    assert status == 200, body
    page = json.loads(body)
    assert isinstance(page, dict)
    return page


def test_the_server_as_a_whole(watched: Hosted) -> None:
    client = watched.raw()
    client.sub(b"a")
    client.pub(b"a", b"12345")
    client.flush()
    page = _page(watched, "/varz")
    kinds: dict[str, type] = {
        "server_id": str, "server_name": str, "version": str, "proto": int, "host": str, "port": int, "auth_required": bool,
        "max_connections": int, "max_payload": int, "max_pending": int, "max_control_line": int, "ping_interval": int,
        "ping_max": int, "write_deadline": int,
        "auth_timeout": float, "http_port": int, "start": str, "now": str, "uptime": str, "mem": int,
        "cores": int, "cpu": float, "connections": int, "total_connections": int, "routes": int, "in_msgs": int, "out_msgs": int,
        "in_bytes": int, "out_bytes": int, "slow_consumers": int, "subscriptions": int,
    }  # fmt: skip
    assert {name: type(page[name]) for name in kinds} == kinds
    assert (page["connections"], page["in_msgs"], page["out_msgs"], page["subscriptions"]) == (1, 1, 1, 1)
    assert page["in_bytes"] > 5
    assert page["out_bytes"] > 5
    assert page["mem"] > 1_000_000
    assert page["ping_interval"] == 120_000_000_000


def test_totals_outlive_connections(watched: Hosted) -> None:
    client = watched.raw()
    client.pub(b"a", b"x")
    client.flush()
    client.close()
    other = watched.raw()
    while watched.on_loop(lambda: len(watched.server.hub.sessions)) > 1:
        other.flush()
    page = _page(watched, "/varz")
    assert (page["connections"], page["total_connections"], page["in_msgs"]) == (1, 2, 1)


def test_clients_page_by_page(watched: Hosted) -> None:
    clients = [watched.raw(name=f"client {number}", lang="raw", version="1") for number in range(5)]
    clients[0].sub(b"a.*")
    clients[0].sub(b"b", b"q")
    clients[0].flush()
    page = _page(watched, "/connz?limit=2&offset=1&subs=1")
    assert (page["num_connections"], page["total"], page["offset"], page["limit"]) == (2, 5, 1, 2)
    assert [row["name"] for row in page["connections"]] == ["client 1", "client 2"]
    (row,) = _page(watched, "/connz?limit=1&subs=1")["connections"]
    assert row["subscriptions_list"] == ["a.*", "b"]
    assert (row["subscriptions"], row["ip"], row["lang"], row["version"], row["kind"], row["type"]) == (
        2,
        HOST,
        "raw",
        "1",
        "Client",
        "nats",
    )
    assert row["port"] == clients[0].socket.getsockname()[1]
    assert {name: type(row[name]) for name in ("cid", "uptime", "idle", "start", "last_activity", "pending_bytes")} == {
        "cid": int, "uptime": str, "idle": str, "start": str, "last_activity": str, "pending_bytes": int,
    }  # fmt: skip
    assert _page(watched, f"/connz?cid={row['cid']}")["connections"][0]["cid"] == row["cid"]
    assert _page(watched, "/connz?cid=999999")["connections"] == []


def test_subscriptions_page_by_page(watched: Hosted) -> None:
    client = watched.raw()
    for number in range(5):
        client.sub(b"a.%d" % number, b"q" if number == 4 else b"")
    client.send(b"UNSUB 1 9\r\n")
    client.pub(b"a.0", b"x")
    client.flush()
    page = _page(watched, "/subsz?subs=1&limit=1")
    assert (page["num_subscriptions"], page["num_inserts"], page["num_removes"]) == (5, 5, 0)
    cid = watched.on_loop(lambda: next(iter(watched.server.hub.sessions)))
    assert page["subscriptions_list"] == [{"subject": "a.0", "sid": "1", "msgs": 1, "cid": cid, "max": 9}]
    last = _page(watched, "/subsz?subs=1&offset=4")["subscriptions_list"]
    assert last == [{"subject": "a.4", "sid": "5", "msgs": 0, "cid": cid, "qgroup": "q"}]


def test_mailboxes_page_by_page(watched: Hosted) -> None:
    client = watched.raw()
    for number in range(3):
        client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": f"parcel{number}"})
        client.call(b"$mq9.AI.MSG.SEND.parcel%d" % number, b"x")
    page = _page(watched, "/mailz?limit=2")
    assert len(page["mailboxes"]) == 2
    assert b"parcel" not in _get(watched, "/mailz")[1]  # an address is the right to read it


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "limit=x", "limit=1e3", "offset=%D9%A1", "cid=x", "limit=99999999999"])
def test_wrong_queries_are_refused(watched: Hosted, query: str) -> None:
    status, body = _get(watched, f"/connz?{query}")
    assert status == 400
    assert query.partition("=")[0] in json.loads(body)["error"]


def test_a_page_has_a_most(watched: Hosted) -> None:
    assert _page(watched, "/connz?limit=1000000")["limit"] == MONITOR_PAGE_MAX


def test_health(host: Host) -> None:
    hosted = host(monitor_port=0, lame_duck_grace_s=3600)
    assert _page(hosted, "/healthz") == {"status": "ok"}
    client = hosted.raw()
    hosted.begin_drain()
    client.read_info()
    status, body = _get(hosted, "/healthz")
    assert (status, json.loads(body)) == (503, {"status": "unavailable", "error": "draining"})


def test_metrics_are_wellformed(watched: Hosted) -> None:
    client = watched.raw()
    client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": "box"})
    client.call(b"$mq9.AI.MSG.SEND.box", b"x")
    status, body = _get(watched, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    value: Callable[[str], float] = lambda name: families[name].samples[0].value  # noqa: E731  # one line of reading
    assert value("mq9_connections") == 1
    assert value("mq9_messages_in") == 2
    assert value("mq9_sends") == 1
    assert value("mq9_commands") == 2
    assert value("mq9_store_writable") == 1
    assert families["mq9_build_info"].samples[0].labels["version"]
    assert all(name.startswith(("mq9_", "process_")) for name in families)
    for family in families.values():
        assert family.documentation
        assert not {label for sample in family.samples for label in sample.labels} - {"le", "version", "python"}
        if family.type == "histogram":
            counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            assert counts == sorted(counts)
            assert family.samples[-2].value == counts[-1]


def test_no_page_shows_a_secret(host: Host) -> None:
    hosted = host(monitor_port=0, **SECRETS)
    client = hosted.raw(user="agent", **{"pass": "hunter2secret"})
    other = hosted.raw(auth_token="t0kensecret")
    client.sub(b"a")
    client.pub(b"a", b"payloadsecret")
    client.flush()
    other.flush()
    for path in (
        "/",
        "/varz",
        "/connz?subs=1&auth=1",
        "/subsz?subs=1",
        "/mailz",
        "/metrics",
        "/healthz",
        "/nothing",
        "/connz?limit=hunter2secret",
    ):
        assert not re.search(rb"hunter2|t0ken|payloadsecret", _get(hosted, path)[1])


def test_only_reading_is_possible(watched: Hosted) -> None:
    for method in ("POST", "PUT", "DELETE"):
        request = urllib.request.Request(watched.monitor_url + "/varz", data=b"x" * 100_000, method=method)  # noqa: S310  # our own server
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=10)  # noqa: S310  # see above
        refusal.value.close()
        assert refusal.value.code == 405


def test_peers_that_say_nothing_are_few(watched: Hosted) -> None:
    idle = [socket.create_connection((HOST, watched.server.monitor_port), timeout=10) for _ in range(MONITOR_CONNECTIONS_MAX)]
    for peer in idle[: MONITOR_CONNECTIONS_MAX // 2]:
        peer.sendall(b"GET /varz HTTP/1.1\r\nHo")
    with socket.create_connection((HOST, watched.server.monitor_port), timeout=10) as refused, pytest.raises(ConnectionError):
        _read_to_end(refused)
    assert watched.raw().flush() == []  # clients of the broker are not touched by it
    idle[0].close()
    while (
        watched.on_loop(lambda: len(watched.server._monitor.guards if watched.server._monitor else ())) >= MONITOR_CONNECTIONS_MAX
    ):
        pass
    assert _page(watched, "/healthz")
    for peer in idle:
        peer.close()


def test_a_peer_that_never_finishes_its_request_is_cut(host: Host) -> None:
    hosted = host(monitor_port=0, timing=Timing(tick_s=1e6, monitor_request_s=0.2))
    address = (HOST, hosted.server.monitor_port)
    with socket.create_connection(address, timeout=10) as silent, socket.create_connection(address, timeout=10) as half:
        half.sendall(b"GET /varz HTTP/1.1\r\nHo")
        for peer in (silent, half):
            with pytest.raises(ConnectionError):
                _read_to_end(peer)
    assert _page(hosted, "/healthz")


def _read_to_end(peer: socket.socket) -> None:
    while peer.recv(4096):
        pass
    raise ConnectionResetError


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m0s"), (3661, "1h1m1s"), (90_061, "1d1h1m1s"), (86_400, "1d0h0m0s")]
)
def test_durations_are_written_as_nats_server_does(seconds: float, text: str) -> None:
    assert pages.duration(seconds) == text
