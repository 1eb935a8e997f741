"""User, password and token: who comes in, who does not, and what guessing costs."""

from __future__ import annotations

import json
from typing import Any

import nats
import nats.aio.client
import nats.errors
import pytest

from broker_node.auth import Authenticator, FailureLog
from mq9.limits import AUTH_FAILURE_ADDRESSES_MAX, AUTH_FAILURE_DELAY_S_MAX, AUTH_FAILURE_WINDOW_S
from mq9.nats.connect import ConnectOptions
from mq9.settings import Settings
from mq9.testing.clock import ManualClock
from tests.broker.conftest import Host
from tests.broker.hosted import HOST, Hosted
from tests.support.raw import Frame, RawClient

USER: dict[str, Any] = {"user": "agent", "password": "s3cret"}
TOKEN: dict[str, Any] = {"token": "t0ken"}
VIOLATION = Frame(b"-ERR", payload=b"'Authorization Violation'")

GOOD = [
    (USER, {"user": "agent", "pass": "s3cret"}),
    (TOKEN, {"auth_token": "t0ken"}),
    (TOKEN, {"user": "t0ken"}),  # nats://t0ken@host
    (USER | TOKEN, {"user": "agent", "pass": "s3cret"}),
    (USER | TOKEN, {"auth_token": "t0ken"}),
    ({}, {"user": "anyone", "pass": "at all"}),
    ({"user": "ägent", "password": "pässword"}, {"user": "ägent", "pass": "pässword"}),
]
BAD = [
    (USER, {}),
    (USER, {"user": None, "pass": None}),
    (USER, {"user": "agent"}),
    (USER, {"user": "agent", "pass": ""}),
    (USER, {"user": "", "pass": "s3cret"}),
    (USER, {"user": "agent", "pass": "s3cre"}),
    (USER, {"user": "agent", "pass": "s3cret "}),
    (USER, {"user": "agent", "pass": "s3cret\0"}),
    (USER, {"user": "Agent", "pass": "s3cret"}),
    (USER, {"user": "agent", "pass": "\ud800"}),
    (USER, {"auth_token": "s3cret"}),
    (TOKEN, {}),
    (TOKEN, {"auth_token": ""}),
    (TOKEN, {"auth_token": "t0ke"}),
    (TOKEN, {"user": "t0ken", "pass": "x"}),
    (TOKEN, {"pass": "t0ken"}),
    (USER | TOKEN, {"user": "agent", "pass": "t0ken"}),
    ({"password": "only"}, {}),
]


def _options(fields: dict[str, Any]) -> ConnectOptions:
    return ConnectOptions(user=fields.get("user"), password=fields.get("pass"), auth_token=fields.get("auth_token"))


@pytest.mark.parametrize(("settings", "fields"), GOOD)
def test_who_comes_in(settings: dict[str, Any], fields: dict[str, Any]) -> None:
    assert Authenticator(Settings(**settings)).accepts(_options(fields))


@pytest.mark.parametrize(("settings", "fields"), BAD)
def test_who_does_not(settings: dict[str, Any], fields: dict[str, Any]) -> None:
    assert not Authenticator(Settings(**settings)).accepts(_options(fields))


def _attempt(hosted: Hosted, fields: dict[str, Any]) -> RawClient:
    """A client whose CONNECT the server has looked at."""
    seen = hosted.on_loop(lambda: hosted.server.hub.traffic.auth_failures)
    client = hosted.dial()
    client.send(b"CONNECT " + json.dumps(fields).encode() + b"\r\n")
    while hosted.on_loop(lambda: hosted.server.hub.traffic.auth_failures) == seen:
        pass
    return client


def test_wrong_credentials_end_the_connection_and_nothing_after_them_is_done(host: Host) -> None:
    hosted = host(**USER)
    good = hosted.raw(user="agent", **{"pass": "s3cret"})
    good.sub(b">")
    good.flush()
    client = hosted.dial()
    assert client.info["auth_required"] is True
    client.send(
        b'CONNECT {"user":"agent","pass":"wrong"}\r\nPUB a 1\r\nx\r\nCONNECT {"user":"agent","pass":"s3cret"}\r\nPUB a 1\r\nx\r\n'
    )
    while not hosted.on_loop(lambda: hosted.server.hub.traffic.auth_failures):
        pass
    client.send(b"PUB a 1\r\nx\r\n")
    hosted.pass_time(0.2)
    assert client.expect_closed() == [VIOLATION]
    assert good.flush() == []


def test_wrong_credentials_end_a_client_that_was_in(host: Host) -> None:
    hosted = host(**TOKEN)
    client = hosted.raw(auth_token="t0ken")
    client.sub(b"a")
    client.send_connect(auth_token="wrong")
    client.pub(b"a", b"x")
    assert client.expect_closed() == [VIOLATION]
    other = hosted.raw(auth_token="t0ken")
    while hosted.on_loop(lambda: len(hosted.server.hub.sessions)) > 1:
        other.flush()
    assert hosted.on_loop(lambda: (len(hosted.server.hub.waiting), hosted.server.hub._waiting_by_address)) == (0, {})


def test_every_failure_waits_longer_than_the_last(host: Host) -> None:
    hosted = host(**TOKEN)
    for delay_s in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        client = _attempt(hosted, {"auth_token": "guess"})
        hosted.pass_time(delay_s * 0.9)
        assert hosted.on_loop(lambda: len(hosted.server.hub.waiting)) == 1
        hosted.pass_time(delay_s * 0.2)
        assert client.expect_closed() == [VIOLATION]


def test_guessing_in_parallel_is_no_way_around_it(host: Host) -> None:
    hosted = host(**TOKEN)
    client = _attempt(hosted, {"auth_token": "guess"})
    waiting = [hosted.dial() for _ in range(63)]
    refused = hosted.dial(read_info=False)
    assert refused.expect_closed() == [Frame(b"-ERR", payload=b"'maximum connections exceeded'")]
    hosted.pass_time(0.2)
    assert client.expect_closed() == [VIOLATION]
    # A right token is never made to wait.
    waiting[0].connect(auth_token="t0ken")


def test_failures_are_forgotten() -> None:
    clock = ManualClock()
    failures = FailureLog(clock)
    assert [failures.add("a") for _ in range(3)] == [0.1, 0.2, 0.4]
    assert failures.add("b") == 0.1
    clock.advance(AUTH_FAILURE_WINDOW_S + 1)
    assert failures.recent("a") == 0
    assert failures.add("a") == 0.1


def test_failures_are_bounded_in_delay_and_in_number() -> None:
    failures = FailureLog(ManualClock())
    for number in range(AUTH_FAILURE_ADDRESSES_MAX + 100):
        failures.add(f"10.0.{number // 256}.{number % 256}")
    assert len(failures._failures) == AUTH_FAILURE_ADDRESSES_MAX
    delays_s = [failures.add("a") for _ in range(5000)]
    assert max(delays_s) == delays_s[-1] == AUTH_FAILURE_DELAY_S_MAX


@pytest.mark.anyio
async def test_an_unmodified_client_comes_in_and_is_told_when_not(start_server: Any) -> None:
    server = start_server(**USER)
    client = await nats.connect(f"nats://agent:s3cret@{HOST}:{server.port}")
    assert (await client.request("$mq9.AI.MAILBOX.CREATE", b"{}")).data
    await client.close()
    stranger = nats.aio.client.Client()
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await stranger.connect(f"nats://agent:wrong@{HOST}:{server.port}", allow_reconnect=False, max_reconnect_attempts=1)
    await stranger.close()
    assert "s3cret" not in server.log
    assert "wrong credentials" in server.log
