"""A connection, session, router and broker, all real, in memory: the transport only keeps what is written."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from broker_node.broker import Broker
from broker_node.connection import Connection
from broker_node.hub import Hub, Timing
from mq9.settings import Settings
from mq9.testing.clock import ManualClock, ManualLoop


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
        self.writes = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high in {0, 1}

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def write(self, data: Any) -> None:
        assert not self.ended
        self.writes += 1
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
        self.held.clear()

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
    """One broker, one connection. `values` are settings."""

    def __init__(self, tls: ssl.SSLContext | None = None, **values: Any) -> None:
        self.bugs = Bugs()
        logging.getLogger("mq9").addHandler(self.bugs)
        self.clock = ManualClock()
        self.loop = ManualLoop(self.clock)
        settings = Settings(**{"storage": "memory", "max_payload": 8192, "max_pending": 65_536, **values})
        self.broker = Broker(settings, self.clock, self.loop)
        self.hub = Hub(settings, self.clock, self.broker, self.loop, timing=Timing())
        self.hub.info = {"server_id": "N"}
        self.hub.upgrade = lambda connection, transport, context: None
        self.connection = Connection(self.hub, tls)
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
