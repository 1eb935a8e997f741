"""What all connections of a server share, and the one timer that watches over them.

A connection has no timer of its own: `sweep` looks at the few that are in a state with a deadline (not authenticated yet,
refused and waiting for the answer, not taking what is written, closing) at every tick, and at all of them for pings once
in a while. Time comes from the clock that was passed in, so a test moves it and calls `sweep`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from broker_node.auth import Authenticator, FailureLog
from broker_node.loop_hooks import LoopHooks
from broker_node.router.client import Client
from broker_node.router.core import CoreRouter
from broker_node.router.sublist import Subscription
from mq9 import limits
from mq9.clock import Clock
from mq9.nats import encoder
from mq9.settings import Settings

if TYPE_CHECKING:
    import asyncio
    import ssl

    from broker_node.connection import Connection, Parting
    from broker_node.session import Session

log = logging.getLogger("mq9.clients")

RELIEF_POLL_S: Final = 0.005  # about one commit; only while somebody is held back


class Commands(Protocol):
    """What connections need of the broker behind them."""

    core: CoreRouter

    def command(self, client: Client, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None: ...

    def subscribe(self, client: Client, sub: Subscription) -> None: ...

    def unsubscribe(self, client: Client, sub: Subscription) -> None: ...

    def client_closed(self, client: Client) -> None: ...

    def client_writable(self, client: Client) -> None: ...

    def holds_untaken(self, client: Client) -> bool: ...

    def overloaded(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Deadlines that are not settings. Seconds."""

    tick_s: float = 0.25
    authenticate_s: float = limits.PREAUTH_TIMEOUT_S
    handshake_s: float = limits.TLS_HANDSHAKE_TIMEOUT_S
    monitor_request_s: float = limits.MONITOR_REQUEST_S
    linger_s: float = limits.LINGER_S


class Traffic:
    """Counters of clients, since start. Bytes are those on the wire, protocol lines included."""

    __slots__ = (
        "auth_failures",
        "connections",
        "in_bytes",
        "in_msgs",
        "no_responders",
        "out_bytes",
        "out_msgs",
        "permission_violations",
        "protocol_errors",
        "refused_connections",
        "slow_consumers",
        "stale_connections",
        "write_timeouts",
    )

    def __init__(self) -> None:
        self.connections = 0  # accepted, refused ones included
        self.in_msgs = 0  # this and the next three: of connections that are gone; add those of the live ones
        self.in_bytes = 0
        self.out_msgs = 0
        self.out_bytes = 0
        self.refused_connections = 0
        self.auth_failures = 0
        self.protocol_errors = 0
        self.permission_violations = 0
        self.no_responders = 0
        self.slow_consumers = 0
        self.stale_connections = 0
        self.write_timeouts = 0


class Flusher:
    """Gives every connection that has something to say one write at the end of the loop's turn."""

    __slots__ = ("_call_soon", "_dirty")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._dirty: list[Connection] = []

    def add(self, connection: Connection) -> None:
        if not self._dirty:
            self._call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()


class Hub:
    """The clients of one server."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        broker: Commands,
        hooks: LoopHooks,
        *,
        timing: Timing,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.broker = broker
        self.timing = timing
        self.auth = Authenticator(settings)
        self.failures = FailureLog(clock)
        self.traffic = Traffic()
        self.flusher = Flusher(hooks.call_soon)
        self._hooks = hooks
        self.sessions: dict[int, Session] = {}
        self.waiting: dict[int, Session] = {}  # not authenticated
        self.overloaded: dict[int, Session] = {}  # not read until the broker has caught up
        self.stalled: set[Connection] = set()  # not taking what is written
        self.closing: set[Connection | Parting] = set()
        self.all_gone: Callable[[], None] = _nothing  # called when `is_empty` becomes true
        self.upgrade: Upgrade = _no_upgrade  # begins the TLS handshake of a connection
        self.max_connections = settings.max_connections
        self.info: dict[str, object] = {}  # what INFO says to everyone
        self.turns_away = False  # new connections: they are told to look for another server
        self._waiting_by_address: dict[str, int] = {}
        self._last_id = 0
        self._next_ping_round_s = 0.0

    # --- coming and going ---------------------------------------------------------------------------------------

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def info_for(self, session: Session) -> bytes:
        """The INFO line for one client."""
        document = self.info | {"client_id": session.id, "client_ip": session.address}
        if not session.link.expects_tls:  # over a WebSocket, which has its TLS underneath
            document.pop("tls_required", None)
            document.pop("tls_verify", None)
        return encoder.info(msgspec.json.encode(document))

    def admit(self, session: Session) -> bool:
        """Take in a new connection, if there is room for it and for its address."""
        self.traffic.connections += 1
        same_address = self._waiting_by_address.get(session.address, 0)
        allowed = limits.PREAUTH_CONNECTIONS_PER_ADDRESS_MAX
        if self.failures.recent(session.address):
            allowed = limits.PREAUTH_CONNECTIONS_PER_FAILING_ADDRESS_MAX
        if (
            self.turns_away
            or len(self.sessions) >= self.max_connections
            or len(self.waiting) >= limits.PREAUTH_CONNECTIONS_MAX
            or same_address >= allowed
        ):
            self.traffic.refused_connections += 1
            return False
        self.sessions[session.id] = session
        self.waiting[session.id] = session
        self._waiting_by_address[session.address] = same_address + 1
        return True

    def refusal(self, session: Session) -> bytes:
        """What a connection hears that was not admitted."""
        if not self.turns_away:
            return encoder.error("maximum connections exceeded")
        return self.info_for(session) + encoder.error("no clients are served here now, connect to another server")

    def welcome(self, session: Session) -> None:
        """The session has authenticated."""
        if self.waiting.pop(session.id, None) is not None:
            left = self._waiting_by_address[session.address] - 1
            if left:
                self._waiting_by_address[session.address] = left
            else:
                del self._waiting_by_address[session.address]

    def leave(self, session: Session) -> None:
        """The session has ended."""
        if self.sessions.pop(session.id, None) is None:
            return
        self.welcome(session)
        self.overloaded.pop(session.id, None)
        self.traffic.in_msgs += session.in_msgs
        self.traffic.in_bytes += session.in_bytes
        self.traffic.out_msgs += session.out_msgs
        self.traffic.out_bytes += session.link.out_bytes
        self._check_empty()

    def closed(self, connection: Connection | Parting) -> None:
        """The socket of a connection is gone."""
        self.stalled.difference_update((connection,))
        self.closing.discard(connection)
        self._check_empty()

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a client nor a connection with something left to write."""
        return not self.sessions and not self.closing

    def _check_empty(self) -> None:
        if self.is_empty:
            self.all_gone()

    def tell_info(self) -> None:
        """Tell every client what INFO says now; those not authenticated have heard enough, or hear it when they come."""
        for session in self.sessions.values():
            if session.id not in self.waiting:
                session.send_info()

    def tell_lame_duck(self) -> None:
        """Tell every client, and those that still come, to look for another server."""
        self.info["ldm"] = True
        for session in self.sessions.values():
            session.send_info()

    # --- watching -----------------------------------------------------------------------------------------------

    def hold_back(self, session: Session) -> None:
        """The broker is behind: `session` is resumed when it has caught up."""
        if not self.overloaded:
            self._hooks.call_later(RELIEF_POLL_S, self._relieve)
        self.overloaded[session.id] = session

    def _relieve(self) -> None:
        if self.broker.overloaded():
            self._hooks.call_later(RELIEF_POLL_S, self._relieve)
            return
        held, self.overloaded = self.overloaded, {}
        for session in held.values():
            session.resume()

    def sweep(self) -> None:
        """One tick: end what has passed its deadline, ping who has been silent."""
        now = self.clock.monotonic_s()
        for session in list(self.waiting.values()):
            session.check_authentication(now)
        for connection in list(self.stalled):
            connection.check_progress(now)
        for leaving in list(self.closing):
            leaving.check_closed(now)
        if now >= self._next_ping_round_s:
            # Often enough that nobody waits much longer than the interval, seldom enough to cost nothing.
            self._next_ping_round_s = now + self.settings.ping_interval_s / 8
            for session in list(self.sessions.values()):
                session.check_alive(now)


Upgrade = Callable[["Connection", "asyncio.Transport", "ssl.SSLContext"], None]


def _no_upgrade(connection: Connection, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
    raise AssertionError("only a server with TLS gives its connections a context")


def _nothing() -> None:
    """Nobody waits for the last client to go."""
