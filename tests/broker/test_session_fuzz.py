"""Whatever a client says after (or instead of) CONNECT, its session answers or ends, and leaves nothing behind.

Driven through the real connection, session, router and broker in memory, on a transport that only keeps what is written.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_node.broker import Broker
from broker_node.connection import Connection
from broker_node.hub import Hub, Timing
from mq9.settings import Settings
from mq9.testing.clock import ManualClock, ManualLoop
from tests.nats import strategies
from tests.nats.reading import cut
from tests.nats.strategies import Piece


class Wire(asyncio.Transport):
    """A socket that takes everything, or as long as `is_full` nothing."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__({"peername": ("192.0.2.1", 1234)})
        self.protocol = protocol
        self.said = bytearray()
        self.held = bytearray()
        self.is_full = False
        self.is_reading = lambda: True  # type: ignore[method-assign]
        self.ended = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def write(self, data: Any) -> None:
        assert not self.ended
        if not self.is_full:
            self.said += data
            return
        was_empty = not self.held
        self.held += data
        if was_empty and data:
            self.protocol.pause_writing()

    def take(self) -> None:
        """The socket can take everything again."""
        self.is_full = False
        if self.held:
            self.said += self.held
            self.held.clear()
            self.protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None


class Bugs(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Rig:
    """One broker, one connection."""

    def __init__(self) -> None:
        self.bugs = Bugs()
        logging.getLogger("mq9").addHandler(self.bugs)
        self.clock = ManualClock()
        self.loop = ManualLoop(self.clock)
        settings = Settings(storage="memory", max_payload=8192, max_pending=65_536)
        self.broker = Broker(settings, self.clock, self.loop)
        self.hub = Hub(settings, self.clock, self.broker, self.loop, timing=Timing())
        self.hub.info = {"server_id": "N"}
        self.connection = Connection(self.hub)
        self.wire = Wire(self.connection)
        self.connection.connection_made(self.wire)
        self.loop.run()

    def feed(self, data: bytes) -> None:
        if not self.wire.ended:
            self.connection.data_received(data)

    def finish(self) -> bytes:
        """End the connection; everything that was said."""
        self.wire.take()
        self.loop.run()
        self.connection.connection_lost(None)
        self.loop.run()
        assert not self.hub.sessions
        assert not self.hub.waiting
        assert not self.hub.overloaded
        assert not self.hub._waiting_by_address
        assert len(self.broker.core.sublist) == 0
        self.broker.close()
        logging.getLogger("mq9").removeHandler(self.bugs)
        return bytes(self.wire.said)


COMMANDS = st.sampled_from(
    [
        b"MAILBOX.CREATE",
        b"MSG.SEND.a",
        b"MSG.FETCH.a",
        b"MSG.ACK.a",
        b"MSG.QUERY.a",
        b"MSG.DELETE.a.1",
        b"AGENT.REGISTER",
        b"AGENT.DISCOVER",
    ]
)
BODIES = st.sampled_from(
    [b"", b"{}", b'{"name":"a"}', b'{"group_name":"g","msg_id":1}', b"[", b"null", b'{"config":{"max_wait_ms":1}}']
)


def _command(name: bytes, body: bytes) -> bytes:
    return b"PUB $mq9.AI.%b _INBOX.x.1 %d\r\n%b\r\n" % (name, len(body), body)


STREAMS = st.lists(
    st.builds(_command, COMMANDS, BODIES | st.binary(max_size=30))
    | strategies.PIECES.map(lambda piece: piece[0])
    | strategies.JUNK,
    max_size=8,
).map(lambda parts: b"CONNECT {}\r\nSUB _INBOX.x.* i\r\n" + b"".join(parts))


@pytest.mark.fuzz
@given(stream=STREAMS, places=st.lists(st.integers(0, 1 << 20), max_size=6), full=st.booleans())
def test_a_session_survives_whatever_it_hears(stream: bytes, places: list[int], full: bool) -> None:
    """Fuzz target: no exception leaves the connection, nothing is logged as a bug, and nothing is left behind."""
    rig = Rig()
    for number, chunk in enumerate(cut(stream, places)):
        rig.wire.is_full = full and number % 2 == 1
        rig.feed(chunk)
        rig.loop.run()
        if not rig.wire.is_full:
            rig.wire.take()
            rig.loop.run()
    rig.loop.advance(1)
    rig.hub.sweep()
    said = rig.finish()
    assert said.startswith(b"INFO ")
    assert not rig.bugs.lines


@given(st.lists(strategies.PIECES, max_size=10), st.lists(st.integers(0, 1 << 20), max_size=8))
def test_a_full_socket_changes_nothing_but_the_time(pieces: list[Piece], places: list[int]) -> None:
    """What is held back while the client does not read is done and said all the same, in the same order."""
    stream = b'CONNECT {"headers":true,"verbose":true}\r\nSUB > everything\r\n' + b"".join(data for data, _ in pieces)
    said: list[bytes] = []
    for is_full in (False, True):
        rig = Rig()
        for chunk in cut(stream, places):
            rig.wire.is_full = is_full
            rig.feed(chunk)
            rig.loop.run()
            rig.wire.take()
            rig.loop.run()
        said.append(rig.finish())
    assert said[0] == said[1]
