"""TLS: INFO in clear, then the upgrade; who is let in with which version and certificate, and what a bad peer costs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import pytest

from broker_node.event_loop import new_event_loop
from broker_node.hub import Timing
from broker_node.tls import server_context
from mq9.errors import RequestError
from mq9.settings import Settings
from tests.broker.conftest import Host
from tests.broker.hosted import HOST, Hosted
from tests.support.certificates import Authority, Pair, client_context
from tests.support.raw import Closed, RawClient

LOOPS = {"uvloop": new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "theirs")


@pytest.fixture(scope="module")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("server")


def _files(pair: Pair, authority: Authority | None = None) -> dict[str, Any]:
    values: dict[str, Any] = {"tls_cert": str(pair.cert), "tls_key": str(pair.key)}
    if authority is not None:
        values |= {"tls_ca": str(authority.cert), "tls_verify": True}
    return values


def _secure(hosted: Hosted, context: ssl.SSLContext) -> RawClient:
    client = hosted.dial()
    client.start_tls(context, "localhost")
    return client


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_current_versions_work(
    host: Host, authority: Authority, server_pair: Pair, version: ssl.TLSVersion, loop: str
) -> None:
    hosted = host(loop_factory=LOOPS[loop], monitor_port=0, **_files(server_pair))
    context = client_context(authority)
    context.minimum_version = context.maximum_version = version
    client = hosted.dial()
    assert client.info["tls_required"] is True
    assert "tls_verify" not in client.info
    client.start_tls(context, "localhost")
    client.connect()
    client.sub(b"a")
    big = bytes(range(256)) * 3000  # many TLS records, both ways
    for _ in range(5):
        client.pub(b"a", big)
    assert [frame.payload for frame in client.flush()] == [big] * 5
    session = hosted.on_loop(lambda: next(iter(hosted.server.hub.sessions.values())))
    assert hosted.on_loop(session.link.tls_info) == (client.socket.version(), client.socket.cipher()[0])  # type: ignore[attr-defined]


def test_old_versions_are_refused(host: Host, authority: Authority, server_pair: Pair) -> None:
    assert server_context(Settings(**_files(server_pair))).minimum_version == ssl.TLSVersion.TLSv1_2  # type: ignore[union-attr]
    hosted = host(**_files(server_pair))
    context = client_context(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _secure(hosted, context)


def test_words_in_clear_are_not_understood(host: Host, server_pair: Pair) -> None:
    hosted = host(**_files(server_pair))
    client = hosted.dial()
    client.send(b"CONNECT {}\r\nPING\r\n")
    assert not [frame for frame in _until_closed(client) if frame]


def _until_closed(client: RawClient) -> list[bytes]:
    """Whatever text comes before the end; a TLS alert is not text."""
    got: list[bytes] = []
    while True:
        try:
            data = client.socket.recv(4096)
        except ConnectionError:
            return got
        if not data:
            return got
        got += [data] if b"PONG" in data or b"+OK" in data else []


CLIENTS: dict[str, Callable[[Authority, Authority], Pair | None]] = {
    "signed by the authority": lambda ours, theirs: ours.issue("client"),
    "none": lambda ours, theirs: None,
    "signed by another": lambda ours, theirs: theirs.issue("client"),
    "expired": lambda ours, theirs: ours.issue("late", days_left=-1),
}


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("loop", LOOPS)
def test_client_certificates(
    host: Host, authority: Authority, stranger: Authority, server_pair: Pair, kind: str, loop: str
) -> None:  # fmt: skip
    hosted = host(loop_factory=LOOPS[loop], **_files(server_pair, authority))
    pair = CLIENTS[kind](authority, stranger)
    client = hosted.dial()
    assert client.info["tls_verify"] is True
    if kind == "signed by the authority":
        client.start_tls(client_context(authority, pair), "localhost")
        client.connect()
        assert client.flush() == []
        return
    # TLS 1.3 tells the client only after its side of the handshake is over.
    with pytest.raises((ssl.SSLError, ConnectionError, Closed)):
        _shake_hands_and_connect(client, client_context(authority, pair))


def _shake_hands_and_connect(client: RawClient, context: ssl.SSLContext) -> None:
    client.start_tls(context, "localhost")
    client.connect()


def test_certificates_do_not_replace_the_password(host: Host, authority: Authority, server_pair: Pair) -> None:
    hosted = host(user="u", password="p", **_files(server_pair, authority))
    client = _secure(hosted, client_context(authority, authority.issue("client2")))
    client.send(b"CONNECT {}\r\n")
    while not hosted.on_loop(lambda: hosted.server.hub.traffic.auth_failures):
        pass
    hosted.pass_time(1)
    assert [frame.payload for frame in client.expect_closed()] == [b"'Authorization Violation'"]
    _secure(hosted, client_context(authority, authority.issue("client3"))).connect(user="u", **{"pass": "p"})


def test_a_client_that_does_not_trust_us_goes_away_alone(
    host: Host, stranger: Authority, authority: Authority, server_pair: Pair
) -> None:
    hosted = host(**_files(server_pair))
    with pytest.raises(ssl.SSLCertVerificationError):
        _secure(hosted, client_context(stranger))
    _secure(hosted, client_context(authority)).connect()


def test_a_handshake_that_is_never_finished_is_cut(host: Host, authority: Authority, server_pair: Pair) -> None:
    hosted = host(timing=Timing(tick_s=1e6, handshake_s=0.2), **_files(server_pair))
    silent, half = hosted.dial(), hosted.dial()
    half.send(bytes.fromhex("16030100fa"))  # the head of a ClientHello
    for client in (silent, half):
        assert _until_closed(client) == []
    good = _secure(hosted, client_context(authority))
    good.connect()
    while hosted.on_loop(lambda: len(hosted.server.hub.sessions)) > 1:
        good.flush()


def test_who_has_shaken_hands_must_still_say_connect(host: Host, authority: Authority, server_pair: Pair) -> None:
    hosted = host(**_files(server_pair))
    client = _secure(hosted, client_context(authority))
    session = hosted.on_loop(lambda: next(iter(hosted.server.hub.sessions.values())))
    while not hosted.on_loop(lambda: session.link.is_tls):
        pass
    hosted.pass_time(2.1)
    assert [frame.payload for frame in client.expect_closed()] == [b"'Authentication Timeout'"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_consumer_over_tls_is_ended(host: Host, authority: Authority, server_pair: Pair, loop: str) -> None:
    hosted = host(max_pending=1 << 20, loop_factory=LOOPS[loop], **_files(server_pair))
    slow, sender = (_secure(hosted, client_context(authority)) for _ in range(2))
    slow.connect()
    sender.connect()
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
    slow.sub(b"flood")
    slow.flush()
    hub = hosted.server.hub
    for _ in range(400):
        sender.send((b"PUB flood 1024\r\n" + b"x" * 1024 + b"\r\n") * 100)
        sender.flush()
        if hosted.on_loop(lambda: hub.traffic.slow_consumers):
            break
    assert hosted.on_loop(lambda: (hub.traffic.slow_consumers, len(hub.sessions))) == (1, 1)


@pytest.mark.parametrize(
    "values",
    [
        {"tls_key": "k"},
        {"tls_ca": "c"},
        {"tls_verify": True},
        {"tls_cert": "c", "tls_key": "k", "tls_verify": True},
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="--tls-"):
        server_context(Settings(**values))


def test_files_that_cannot_be_read_are_named(make_server: Any, tmp_path: Path, server_pair: Pair) -> None:
    for values in ({"tls_cert": str(tmp_path / "absent.pem")}, {"tls_cert": str(server_pair.key)}):
        refusal = make_server(**values).start_error()
        assert refusal.code == 1
        assert str(next(iter(values.values()))) in refusal.log


@pytest.mark.anyio
async def test_an_unmodified_client_with_a_certificate(start_server: Any, authority: Authority, server_pair: Pair) -> None:
    server = start_server(**_files(server_pair, authority))
    context = client_context(authority, authority.issue("nats-py"))
    client = await nats.connect(f"tls://{HOST}:{server.port}", tls=context, tls_hostname="localhost")
    assert (await client.request("$mq9.AI.MAILBOX.CREATE", b"{}")).data
    await client.close()
