"""The process side of a broker: listen, accept, upgrade to TLS, watch, drain.

`Server` owns the event loop's half of everything and builds the other half: the broker, which knows no sockets. Start order:
what can be wrong with the settings, the store, the listener, in a cluster the peers and the meta service, the monitor. End
order: no new clients, lame duck for those there are, the last commit, the cluster, the monitor.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import ssl
import string
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

from broker_node.broker import Broker
from broker_node.cluster.disk import check_single
from broker_node.connection import Connection
from broker_node.event_loop import AsyncioHooks
from broker_node.hub import Hub, Timing
from broker_node.lame_duck import LameDuck, close_interval_s
from broker_node.loop_hooks import LoopHooks
from broker_node.monitor.http import Monitor
from broker_node.tls import server_context
from broker_node.websocket import WebSocketDoor
from mq9.clock import Clock, SystemClock
from mq9.errors import Mq9Error
from mq9.limits import ACCEPT_BACKLOG, DESCRIPTORS_RESERVED
from mq9.settings import Settings

if TYPE_CHECKING:
    from broker_node.cluster.node import ClusterNode

log = logging.getLogger("mq9.server")

NATS_VERSION: Final = "2.10.0"  # clients switch features on this; it is the protocol level we speak, not our own version
RESYNC_MS_PER_S: Final = 50  # how fast a calendar that was set is followed: an hour in twenty
FLUSH_S_MAX: Final = 1.0  # what closing connections get for their last bytes

MakeBroker = Callable[[Settings, Clock, LoopHooks], Broker]


class Server:
    """One broker process's server. `start`, then `drain` once, then `wait_closed` returns."""

    def __init__(
        self, settings: Settings, clock: Clock, make_broker: MakeBroker = Broker, *, timing: Timing | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.server_id = "N" + "".join(secrets.choice(string.ascii_uppercase + "234567") for _ in range(55))
        self.broker: Broker
        self.hub: Hub
        self.node: ClusterNode | None = None  # of a broker in a cluster
        self._lame_duck: LameDuck  # while others serve and this one cannot
        self._make_broker = make_broker
        self._timing = timing or Timing()
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop
        self._handshakes: set[asyncio.Task[None]] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._hurry = asyncio.Event()
        self._empty = asyncio.Event()
        self._closed = asyncio.Event()
        self._monitor: Monitor | None = None
        self._started_s = clock.monotonic_s()
        self._port = settings.port
        self.monitor_port = 0  # 0: the monitor is off
        self._ws_listener: asyncio.Server | None = None
        self.ws_port = 0  # 0: no WebSocket
        self.is_draining = False

    # --- starting -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve. Raises OSError or an Mq9Error when that is not possible; nothing is left open then."""
        self._loop = asyncio.get_running_loop()
        settings = self.settings
        context = server_context(settings)
        hooks = AsyncioHooks(self._loop)
        self.broker = self._built_broker(hooks)
        self.hub = hub = Hub(settings, self.clock, self.broker, hooks, timing=self._timing)
        hub.max_connections = min(settings.max_connections, max(1, raise_descriptor_limit() - DESCRIPTORS_RESERVED))
        hub.upgrade = self._upgrade
        hub.all_gone = self._empty.set
        self._lame_duck = LameDuck(hub)
        try:
            self._listener = await self._loop.create_server(
                lambda: Connection(hub, context), settings.host or None, settings.port, backlog=ACCEPT_BACKLOG,
                reuse_address=True, start_serving=self.node is None,
            )  # fmt: skip
            self._port = self._listener.sockets[0].getsockname()[1]
            hub.info = self._info(context)
            if self.node is not None:
                self.node.on_urls = self._urls_changed
                self.node.cut_off.on_change = self._cut_off
                await self.node.start(self._port)
                await self._listener.start_serving()
            if settings.ws_port >= 0:
                self._ws_listener = await self._loop.create_server(
                    lambda: WebSocketDoor(hub), settings.ws_host or None, settings.ws_port, ssl=context, backlog=ACCEPT_BACKLOG
                )
                self.ws_port = self._ws_listener.sockets[0].getsockname()[1]
            if settings.monitor_port >= 0:
                self._monitor = Monitor(self)
                self.monitor_port = await self._monitor.start(settings.monitor_host, settings.monitor_port)
        except (OSError, Mq9Error):
            await self._abandon()
            raise
        self.broker.start()
        self._tick = self._loop.call_later(self._timing.tick_s, self._on_tick)
        log.info("listening on %s:%d for at most %d clients", settings.host, self.port, hub.max_connections)

    def _built_broker(self, hooks: LoopHooks) -> Broker:
        """A single one, or, by the settings, one that is in a cluster and has to join it."""
        if self.settings.node_id:
            # Imported by those who need it alone: gRPC takes longer to load than all the rest.
            made: type[ClusterNode] = import_module("broker_node.cluster.node").ClusterNode
            broker = Broker(self.settings, self.clock, hooks, make_cluster=made)
            assert isinstance(broker.cluster, made)
            self.node = broker.cluster
            return broker
        broker = self._make_broker(self.settings, self.clock, hooks)
        try:
            check_single(broker.store)
        except Mq9Error:
            broker.close()
            raise
        return broker

    def _urls_changed(self, urls: list[str]) -> None:
        """Brokers have come or gone: clients hear where else they can connect to."""
        assert self.node is not None, "only the node of a cluster calls this"
        hub = self.hub
        hub.info["connect_urls"] = self.node.others() if self.is_draining or hub.turns_away else urls
        hub.tell_info()

    def _cut_off(self, cut_off: bool) -> None:
        """Nothing is served here while other brokers may serve; or that is over."""
        assert self.node is not None, "only the node of a cluster calls this"
        if self.is_draining:
            return
        if cut_off:
            self._lame_duck.begin(self.node.others())
        else:
            self._lame_duck.end(self.node.urls)

    async def _abandon(self) -> None:
        """Undo a start that failed half way."""
        self._stop_listening()
        if self._monitor is not None:
            await self._monitor.close()
        self.broker.close()
        if self.node is not None:
            await self.node.leave()

    def _stop_listening(self) -> None:
        for listener in (self._listener, self._ws_listener):
            if listener is not None:
                listener.close()

    def _info(self, context: ssl.SSLContext | None) -> dict[str, object]:
        info: dict[str, object] = {
            "server_id": self.server_id,
            "server_name": self.settings.server_name or self.server_id,
            "version": NATS_VERSION,
            "proto": 1,
            "host": self.settings.host or "0.0.0.0",  # noqa: S104  # says where we listen, does not choose it
            "port": self.port,
            "headers": True,
            "max_payload": self.settings.max_payload,
            "jetstream": False,
        }
        if self.hub.auth.required:
            info["auth_required"] = True
        if context is not None:
            info["tls_required"] = True
            if self.settings.tls_verify:
                info["tls_verify"] = True
        return info

    @property
    def port(self) -> int:
        """The port clients connect to, also when the settings left the choice to the system."""
        return self._port

    # --- running ------------------------------------------------------------------------------------------------

    def uptime_s(self) -> float:
        """Time since start."""
        return self.clock.monotonic_s() - self._started_s

    def totals(self) -> dict[str, int]:
        """The traffic counters, of all clients there are and have been."""
        traffic = self.hub.traffic
        totals: dict[str, int] = {name: getattr(traffic, name) for name in traffic.__slots__}
        for session in self.hub.sessions.values():
            totals["in_msgs"] += session.in_msgs
            totals["out_msgs"] += session.out_msgs
            totals["in_bytes"] += session.in_bytes
            totals["out_bytes"] += session.link.out_bytes
        return totals

    def _on_tick(self) -> None:
        self._tick = self._loop.call_later(self._timing.tick_s, self._on_tick)
        if isinstance(self.clock, SystemClock):  # a test's clock has no calendar to follow
            self.clock.resync(round(RESYNC_MS_PER_S * self._timing.tick_s))
        self.hub.sweep()

    def _upgrade(self, connection: Connection, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        task = self._loop.create_task(self._handshake(connection, transport, context))
        self._handshakes.add(task)  # the loop itself keeps only weak references to tasks
        task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, connection: Connection, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        connection.greet_in_clear()
        try:
            secured = await self._loop.start_tls(
                transport,
                connection,
                context,
                server_side=True,
                ssl_handshake_timeout=self._timing.handshake_s,
                ssl_shutdown_timeout=self._timing.linger_s,
            )
        except OSError as failure:  # ssl.SSLError and ConnectionError are of this kind
            log.info("TLS handshake failed: %s", failure)
            transport.abort()
        else:
            if secured is not None:  # None when the client went away at the very end
                connection.secured(secured)

    # --- ending -------------------------------------------------------------------------------------------------

    def stop_soon(self) -> None:
        """For signals: begin to drain; the second time, without waiting for anyone."""
        if self.is_draining:
            self._hurry.set()
        else:
            task = self._loop.create_task(self.drain())
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def drain(self) -> None:
        """Lame duck: no new clients; those there are told, given time to move, then closed one by one; then the store."""
        if self.is_draining:
            await self._closed.wait()
            return
        self.is_draining = True
        self._lame_duck.stop()
        self._stop_listening()
        hub = self.hub
        if hub.sessions:
            log.info("draining: %d clients have %g s to move", len(hub.sessions), self.settings.lame_duck_grace_s)
            if self.node is not None:
                hub.info["connect_urls"] = self.node.others()
            hub.tell_lame_duck()
            await self._until_empty(self.settings.lame_duck_grace_s)
        await self._close_clients()
        if self._monitor is not None:
            await self._monitor.close()
        if self._tick is not None:
            self._tick.cancel()
        log.info("stopped")
        self._closed.set()

    async def _close_clients(self) -> None:
        """Close clients one by one, and the broker before the last bytes are written.

        A client is first no longer read and closed one interval later, so that what it had asked for is answered.
        """
        if self.node is not None:
            self.node.clients_close()
        sessions = list(self.hub.sessions.values())
        interval_s = close_interval_s(len(sessions), self.settings.lame_duck_close_s)
        for session in sessions:
            session.retire()
            await self._until_empty(interval_s)
            if not self._hurry.is_set():
                session.close()
        if self.node is not None:
            await self.node.settle()
        self.broker.close()
        if self.node is not None:
            await self.node.leave()
        for session in list(self.hub.sessions.values()):
            session.close()
        await self._until_empty(FLUSH_S_MAX)
        for connection in list(self.hub.closing):
            connection.abort()

    async def _until_empty(self, timeout_s: float) -> None:
        """Wait until the last connection has gone or somebody is in a hurry, at most this long."""
        self._empty.clear()
        if self.hub.is_empty or self._hurry.is_set():
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (self._empty, self._hurry)]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def wait_closed(self) -> None:
        """Return when the drain is over and everything is on disk."""
        await self._closed.wait()


def raise_descriptor_limit() -> int:
    """Raise the soft limit on open files to the hard one; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as failure:  # macOS reports a hard limit that it does not grant
            log.warning("cannot raise the limit on open files above %d: %s", soft, failure)
            return soft
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
