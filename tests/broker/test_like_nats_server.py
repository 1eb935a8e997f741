"""The same bytes to us and to a real nats-server: the same answers.

Each script is what a client sends after CONNECT. Where we differ on purpose, the test says so and does not compare.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.broker.hosted import HOST, Hosted
from tests.support.nats_server import NatsServer
from tests.support.raw import Frame, RawClient

QUIET: dict[str, Any] = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}

SCRIPTS: dict[str, bytes] = {
    "publish and subscribe": b"SUB a.b 1\r\nPUB a.b 2\r\nhi\r\n",
    "reply subject": b"SUB a 1\r\nPUB a r.1 2\r\nhi\r\n",
    "empty payload": b"SUB a 1\r\nPUB a 0\r\n\r\n",
    "wildcards": b"SUB *.b 1\r\nSUB a.> 2\r\nSUB > 3\r\nSUB a.b.c 4\r\nPUB a.b 1\r\nx\r\n",
    "wildcards are whole tokens": b"SUB foo* 1\r\nSUB a>b 2\r\nPUB foobar 1\r\nx\r\nPUB foo* 1\r\ny\r\nPUB a>b 1\r\nz\r\n",
    "the open end wants a token": b"SUB a.> 1\r\nPUB a 1\r\nx\r\nPUB a.b.c 1\r\ny\r\n",
    "headers": b"SUB a 1\r\nHPUB a 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n",
    "headers with a reply": b"SUB a 1\r\nHPUB a r 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n",
    "an empty header block": b"SUB a 1\r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    "mixed case and blanks": b"sub \t a   1 \r\nPuB\ta  1  \r\nx\r\nuNsUb 1\r\nPUB a 1\r\ny\r\n",
    "lines that end in LF": b"SUB a 1\nPUB a 1\nx\r\nping\n",
    "unsubscribe": b"SUB a 1\r\nUNSUB 1\r\nPUB a 1\r\nx\r\n",
    "unsubscribe what is not there": b"UNSUB 9\r\n",
    "unsubscribe after two": b"SUB a 1\r\nUNSUB 1 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\n",
    "unsubscribe after fewer than came": b"SUB a 1\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nUNSUB 1 1\r\nPUB a 1\r\n3\r\n",
    "unsubscribe after zero": b"SUB a 1\r\nUNSUB 1 0\r\nPUB a 1\r\n1\r\n",
    "a subscription id twice": b"SUB a 1\r\nSUB b 1\r\nPUB a 1\r\nx\r\nPUB b 1\r\ny\r\n",
    "two subscriptions, two messages": b"SUB a 1\r\nSUB a 2\r\nPUB a 1\r\nx\r\n",
    "invalid subscriptions": b"SUB a..b 1\r\nSUB a.>.b 2\r\nSUB .a 3\r\nSUB a. 4\r\nPUB a 1\r\nx\r\n",
    "publishing to empty tokens": b"SUB > 1\r\nPUB a..b 1\r\nx\r\nPUB .a 1\r\nx\r\nPUB a. 1\r\nx\r\n",
    "pong unasked": b"PONG\r\n",
    "ping with words": b"PING foo\r\n",
    "binary payload": b"SUB a 1\r\nPUB a 8\r\n\r\n\x00\xff\r\n\r\n\r\n",
    "a size with zeros before it": b"PUB a 0001\r\nx\r\n",
    "utf-8 subjects": "SUB é.ü 1\r\nPUB é.ü 1\r\nx\r\n".encode(),
}

ENDS: dict[str, bytes] = {
    "unknown verb": b"FOO bar\r\n",
    "blank line": b"\r\n",
    "server's verb": b"MSG a 1 1\r\nx\r\n",
    "payload shorter than it is": b"PUB a 1\r\nxyz\r\n",
    "payload ends in LF": b"PUB a 1\r\nx\nPING\r\n",
    "too large": b"PUB a 1048577\r\n",
    "a control character before the verb": b"\x01PING\r\n",
}


def _ours(hosted: Hosted, options: dict[str, Any], script: bytes) -> list[Frame]:
    client = hosted.dial()
    client.send_connect(**options)
    client.send(script)
    return client.flush()


def _theirs(nats_server: NatsServer, options: dict[str, Any], script: bytes) -> list[Frame]:
    with RawClient(HOST, nats_server.port) as client:
        client.send_connect(**options)
        client.send(script)
        return client.flush()


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("verbose", [False, True])
def test_the_same_answers(hosted: Hosted, nats_server: NatsServer, name: str, verbose: bool) -> None:
    options = QUIET | {"verbose": verbose}
    assert _sorted(_ours(hosted, options, SCRIPTS[name])) == _sorted(_theirs(nats_server, options, SCRIPTS[name]))


def _rest(client: RawClient) -> list[Frame]:
    """What comes before the end; nats-server says INFO a second time."""
    return [frame for frame in client.expect_closed() if frame.verb != b"INFO"]


def _sorted(frames: list[Frame]) -> list[Frame]:
    """One publish reaches several subscriptions of a client in no particular order."""
    return sorted(frames, key=lambda frame: (frame.verb != b"+OK", frame.args, frame.payload))


@pytest.mark.parametrize(
    ("options", "script"),
    [
        ({"echo": False}, b"SUB a 1\r\nPUB a 1\r\nx\r\n"),
        ({"headers": False, "no_responders": False}, b"SUB a 1\r\nPUB a 1\r\nx\r\n"),
        ({"pedantic": True}, b"PUB a..b 1\r\nx\r\nPUB a.* 1\r\nx\r\n"),
        ({"pedantic": True}, b"SUB a.b 1\r\nPUB a.b 1\r\nx\r\n"),
        ({}, b"PUB nobody 1\r\nx\r\n"),
        ({}, b"PUB nobody nowhere 1\r\nx\r\n"),
        ({"no_responders": False}, b"SUB r.* 1\r\nPUB nobody r.1 1\r\nx\r\n"),
        ({}, b'CONNECT {"verbose":true}\r\nSUB a 1\r\n'),
    ],
)
def test_the_same_with_options(hosted: Hosted, nats_server: NatsServer, options: dict[str, Any], script: bytes) -> None:
    assert _ours(hosted, QUIET | options, script) == _theirs(nats_server, QUIET | options, script)


@pytest.mark.parametrize("name", ENDS)
def test_the_same_end(hosted: Hosted, nats_server: NatsServer, name: str) -> None:
    for client in (hosted.raw(), nats_server.raw()):
        client.send(ENDS[name])
        frames = _rest(client)
        expected = b"'Maximum Payload Violation'" if name == "too large" else b"'Unknown Protocol Operation'"
        assert frames == [Frame(b"-ERR", payload=expected)]


@pytest.mark.parametrize(
    "script",
    [
        b"PUB a x\r\n",
        b"PUB a -1\r\n",
        b"PUB a\r\n",
        b"PUB a b c 1\r\nx\r\n",
        b"HPUB a 5 3\r\nabc\r\n",
        b"SUB a\r\n",
        b"SUB a b c d\r\n",
    ],
)
def test_both_close_on_malformed_lines_but_we_say_why(hosted: Hosted, nats_server: NatsServer, script: bytes) -> None:
    theirs, ours = nats_server.raw(), hosted.raw()
    theirs.send(script)
    assert _rest(theirs) == []
    ours.send(script)
    assert ours.expect_closed() == [Frame(b"-ERR", payload=b"'Parser Error'")]


@pytest.mark.parametrize("connect", [b"CONNECT {bad\r\n", b'CONNECT {"verbose":"yes"}\r\n', b"CONNECT\r\n", b"CONNECT []\r\n"])
def test_both_close_on_a_bad_connect(hosted: Hosted, nats_server: NatsServer, connect: bytes) -> None:
    for port in (hosted.port, nats_server.port):
        with RawClient(HOST, port) as client:
            client.send(connect)
            assert not [frame for frame in client.expect_closed() if frame.verb in {b"+OK", b"PONG"}]


def test_connect_without_fields_is_verbose_as_theirs(hosted: Hosted, nats_server: NatsServer) -> None:
    for port in (hosted.port, nats_server.port):
        with RawClient(HOST, port) as client:
            client.send(b"CONNECT {}\r\n")
            assert client.frame() == Frame(b"+OK")


def test_no_responders_needs_headers_as_theirs(hosted: Hosted, nats_server: NatsServer) -> None:
    for port in (hosted.port, nats_server.port):
        with RawClient(HOST, port) as client:
            client.send_connect(headers=False, no_responders=True)
            assert _rest(client) == [Frame(b"-ERR", payload=b"'no responders requires headers support'")]


def test_info_says_what_theirs_says(hosted: Hosted, nats_server: NatsServer) -> None:
    ours = hosted.dial().info
    with RawClient(HOST, nats_server.port) as client:
        theirs = client.info
    for field in ("proto", "headers", "max_payload", "client_ip"):
        assert ours[field] == theirs[field]
    for field in ("server_id", "server_name", "version", "host", "port", "client_id"):
        assert type(ours[field]) is type(theirs[field])
    assert ours["jetstream"] is False
    assert tuple(map(int, ours["version"].split("."))) >= (2, 10, 0)
    assert not ours.keys() & {"auth_required", "tls_required", "tls_available", "nonce", "ldm", "connect_urls"}
    assert len(json.dumps(ours)) < 1000
