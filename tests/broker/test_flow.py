"""Too much, too slow, never finished: what is bounded, and who pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from broker_node.broker import Broker
from broker_node.event_loop import new_event_loop
from broker_node.router.client import Client
from mq9.limits import READ_PAUSE_PENDING_BYTES
from tests.broker.conftest import Host
from tests.broker.hosted import Hosted
from tests.support.raw import Frame, RawClient

KIB = b"x" * 1024
BLOCK = b"PUB flood 1024\r\n" + KIB + b"\r\n"

LOOPS = {"uvloop": new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=LOOPS)
def any_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Flow control leans on when a transport calls back, so it is shown on both kinds of loop."""
    return LOOPS[request.param]


def _stop_reading(client: RawClient) -> None:
    """A small receive window, so that little is hidden in the kernel; not a tiny one, which loopback serves at a crawl."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)


def _wait_until(hosted: Hosted, condition: Callable[[], bool], client: RawClient) -> None:
    """Ask the loop until it is so; every question is a round trip, so time passes by itself."""
    for _ in range(20_000):
        if hosted.on_loop(condition):
            return
        client.flush()
    raise AssertionError("it never came to that")


# --- subscribers that do not read -------------------------------------------------------------------------------------


def test_a_slow_consumer_is_ended_and_the_others_go_on(host: Host, any_loop: Any) -> None:
    hosted = host(max_pending=1 << 20, loop_factory=any_loop)
    slow, good, sender = hosted.raw(), hosted.raw(), hosted.raw()
    _stop_reading(slow)
    slow.sub(b"flood")
    slow.flush()
    good.sub(b"other")
    for _ in range(200):
        sender.send(BLOCK * 100)
        sender.pub(b"other", b"still here")
        sender.flush()
        assert [frame.payload for frame in good.flush()] == [b"still here"]
        if hosted.on_loop(lambda: hosted.server.hub.traffic.slow_consumers):
            break
    frames = slow.expect_closed()
    assert {frame.payload for frame in frames[:-1]} == {KIB}
    assert frames[-1] == Frame(b"-ERR", payload=b"'Slow Consumer'")
    assert hosted.on_loop(lambda: hosted.server.hub.traffic.slow_consumers) == 1
    assert sender.flush() == []


def test_a_socket_that_takes_nothing_is_cut_at_the_write_deadline(host: Host, any_loop: Any) -> None:
    hosted = host(write_deadline_s=5, loop_factory=any_loop)
    slow, sender = hosted.raw(), hosted.raw()
    _stop_reading(slow)
    slow.sub(b"flood")
    slow.flush()
    hub = hosted.server.hub
    while not hosted.on_loop(lambda: len(hub.stalled)):
        sender.send(BLOCK * 100)
        sender.flush()
    hosted.pass_time(4)
    assert hosted.on_loop(lambda: len(hub.sessions)) == 2
    hosted.pass_time(2)
    _wait_until(hosted, lambda: len(hub.sessions) == 1, sender)
    assert hosted.on_loop(lambda: (hub.traffic.write_timeouts, hub.traffic.slow_consumers)) == (1, 0)


def _unsent(hosted: Hosted) -> int:
    """Bytes of the stalled connection that the socket has not taken."""
    for connection in hosted.server.hub.stalled:
        assert connection._transport is not None
        return connection._transport.get_write_buffer_size()
    return 0


def test_a_socket_that_takes_a_little_now_and_then_is_kept(host: Host) -> None:
    hosted = host(write_deadline_s=5)
    slow, sender = hosted.raw(), hosted.raw()
    _stop_reading(slow)
    slow.sub(b"flood")
    slow.flush()
    hub = hosted.server.hub
    for _ in range(4):
        while not hosted.on_loop(lambda: len(hub.stalled)):
            sender.send(BLOCK * 100)
            sender.flush()
        before = hosted.on_loop(lambda: _unsent(hosted))
        while hosted.on_loop(lambda: _unsent(hosted)) == before:
            slow.exactly(64 * 1024)
        hosted.pass_time(4)
        assert hosted.on_loop(lambda: len(hub.sessions)) == 2
    assert hosted.on_loop(lambda: hub.traffic.write_timeouts) == 0


# --- clients that do not read their own replies -----------------------------------------------------------------------


class _Chatty(Broker):
    """Answers every command with 64 KiB."""

    def command(self, client: Client, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        self.core.deliver(reply, b"", b"", KIB * 64)


def test_a_client_that_does_not_read_its_replies_is_not_read_either(host: Host, any_loop: Any) -> None:
    """It pays itself, and no more than a little memory: it is neither answered nor ended, and goes on when it reads."""
    hosted = host(make_broker=_Chatty, loop_factory=any_loop)
    client, good = hosted.raw(), hosted.raw()
    _stop_reading(client)
    client.sub(b"r.*")
    client.send(b"".join(b"PUB $mq9.AI.X r.%d 0\r\n\r\n" % number for number in range(1000)))
    hub = hosted.server.hub
    session = hosted.on_loop(lambda: next(iter(hub.sessions.values())))
    _wait_until(hosted, lambda: session.link.stopped, good)
    good.flush()
    assert hosted.on_loop(lambda: session.link.pending) < READ_PAUSE_PENDING_BYTES + 2 * 64 * 1024
    assert hosted.on_loop(lambda: session.in_msgs) < 1000
    for number in range(1000):
        assert client.frame().subject == b"r.%d" % number
    assert client.flush() == []
    assert hosted.on_loop(lambda: (session.in_msgs, session.link.stopped, hub.traffic.slow_consumers)) == (1000, False, 0)


class _Behind(Broker):
    """Says it is overloaded as long as the test wants."""

    behind = False
    seen = 0

    def command(self, client: Client, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        self.seen += 1

    def overloaded(self) -> bool:
        return self.behind


def test_senders_are_not_read_while_the_store_is_behind(host: Host) -> None:
    hosted = host(make_broker=_Behind)
    broker = hosted.server.broker
    assert isinstance(broker, _Behind)
    sender = hosted.raw()
    hosted.on_loop(lambda: setattr(broker, "behind", True))
    sender.send(b"PUB $mq9.AI.X 1\r\nx\r\n")
    while not hosted.on_loop(lambda: len(hosted.server.hub.overloaded)):
        pass
    sender.send(b"PUB $mq9.AI.X 1\r\nx\r\n" * 1000)
    other = hosted.dial()  # connecting works, what it says waits its turn too
    assert hosted.on_loop(lambda: broker.seen) == 1
    hosted.on_loop(lambda: setattr(broker, "behind", False))
    sender.flush()
    other.connect()
    assert hosted.on_loop(lambda: broker.seen) == 1001


# --- input that never ends --------------------------------------------------------------------------------------------


def test_a_payload_that_never_comes_holds_nothing(hosted: Hosted) -> None:
    client = hosted.raw()
    client.send(b"PUB a 1048576\r\nonly this")
    session = hosted.on_loop(lambda: next(iter(hosted.server.hub.sessions.values())))
    while hosted.on_loop(lambda: session._parser.buffered) < len(b"only this"):
        pass
    assert hosted.on_loop(lambda: session._parser.buffered) == len(b"only this")


def test_the_reason_reaches_a_client_that_is_still_sending(hosted: Hosted) -> None:
    """Closing at once with input unread would make the kernel throw the text away."""
    for _ in range(20):
        client = hosted.raw()
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.socket.send(b"PUB a 1048577\r\n" + b"x" * 1_048_577)
        client.socket.settimeout(10)
        assert client.expect_closed() == [Frame(b"-ERR", payload=b"'Maximum Payload Violation'")]


def test_a_client_that_stays_after_an_error_is_cut(hosted: Hosted) -> None:
    client = hosted.raw()
    client.send(b"BAD\r\n")
    assert client.frame() == Frame(b"-ERR", payload=b"'Unknown Protocol Operation'")
    hub, other = hosted.server.hub, hosted.raw()
    _wait_until(hosted, lambda: len(hub.closing) == 1, other)
    hosted.pass_time(2)
    _wait_until(hosted, lambda: len(hub.closing) == 0, other)
    assert client.expect_closed() == []


def test_a_reset_in_the_middle_of_a_frame_leaves_nothing(hosted: Hosted) -> None:
    good = hosted.raw()
    for _ in range(50):
        client = hosted.raw()
        client.sub(b"a")
        client.send(b"PUB a 100\r\nhalf")
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    hub = hosted.server.hub
    _wait_until(hosted, lambda: len(hub.sessions) == 1, good)
    assert hosted.on_loop(
        lambda: (len(hub.waiting), len(hub.stalled), len(hub.closing), len(hosted.server.broker.core.sublist))
    ) == (
        0,
        0,
        0,
        0,
    )
    assert hosted.on_loop(lambda: hub._waiting_by_address) == {}


def _held() -> int:
    """Bytes that the server's own code has allocated and not freed."""
    gc.collect()
    ours = [tracemalloc.Filter(True, f"*/{room}/*") for room in ("broker_node", "mq9")]
    return sum(statistic.size for statistic in tracemalloc.take_snapshot().filter_traces(ours).statistics("filename"))


def test_memory_is_flat_over_connections_that_come_and_go(hosted: Hosted) -> None:
    good = hosted.raw()

    def rounds(count: int) -> None:
        for _ in range(count):
            client = hosted.raw()
            client.sub(b"_INBOX.me.*")
            client.send(b"PUB _INBOX.me.1 4096\r\n" + KIB * 4 + b"\r\n")
            client.flush()
            client.close()
        _wait_until(hosted, lambda: len(hosted.server.hub.sessions) == 1, good)
        hosted._clients[:] = [good]

    rounds(50)
    tracemalloc.start()
    try:
        rounds(20)
        before = _held()
        rounds(200)
        after = _held()
    finally:
        tracemalloc.stop()
    assert after - before < 200 * 20, "a connection leaves something behind"


def test_memory_is_flat_over_messages(hosted: Hosted) -> None:
    client = hosted.raw()
    client.sub(b"a.*")
    block = b"".join(b"PUB a.%d 10\r\n0123456789\r\n" % number for number in range(1000))
    client.send(block)
    client.flush()
    tracemalloc.start()
    try:
        client.send(block)
        client.flush()
        before = _held()
        for _ in range(20):
            client.send(block)
            client.flush()
        after = _held()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
