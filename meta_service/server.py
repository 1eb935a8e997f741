"""One meta node: settings in, the Raft engine, the API and the leader's duties composed, until it is told to stop."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc

from meta_service import controller
from meta_service.api import Api
from meta_service.contracts import Tuning
from meta_service.engine import ClusterDefaults, Engine, EngineOptions, Hooks
from meta_service.feed import Feed
from meta_service.placement import Targets
from meta_service.sessions import Leases, Sessions
from meta_service.settings import MetaSettings, parse_members
from meta_service.transport import Identity, check_exposure
from mq9.clock import Clock
from mq9.errors import error
from mq9.meta.rpc import SERVER_OPTIONS
from mq9.v1 import raft_pb2 as pb

if TYPE_CHECKING:
    from mq9.monitor.http import MonitorServer

log = logging.getLogger(__name__)

DUTY_S_MAX: Final = 0.2  # how often the leader looks for sessions that are over and slots that should move, at least
PROPOSALS_PER_DUTY_MAX: Final = 64
GRACE_S: Final = 1.0  # calls in flight when the node stops


class Server:
    """`start`, then `wait_closed`; `stop_soon` from a signal handler."""

    def __init__(self, settings: MetaSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._leases = Leases(settings.heartbeat_s, settings.lease_s, settings.session_s)
        self._members = parse_members(settings)
        self._identity = _identity(settings)
        if settings.members or settings.raft_host not in {"127.0.0.1", "::1", "localhost"}:
            check_exposure(settings.raft_host, self._identity)
        _check_api_exposure(settings)
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        options = EngineOptions(
            identity=self._identity,
            peers={name: (each.host, each.raft_port) for name, each in self._members.items() if name != settings.node},
            directory=Path(settings.data_dir),
            host=settings.raft_host,
            port=settings.raft_port,
            tuning=Tuning(
                settings.raft_heartbeat_s, settings.election_min_s, settings.election_max_s,
                log_entries_max=settings.log_entries_max, log_entries_kept=settings.log_entries_kept,
            ),
            barrier_s=settings.barrier_s,
            disk_reserve_bytes=settings.disk_reserve,
            defaults=ClusterDefaults(settings.slots, settings.replication_factor, settings.min_in_sync),
        )  # fmt: skip
        self.engine = Engine(options, self._hooks())
        self._feed = Feed(self.engine.state.everything())
        self._api = Api(
            self.engine, self._feed, self._leases, clock, {name: each.api_address for name, each in self._members.items()}
        )
        self._grpc: grpc.aio.Server | None = None
        self._in_flight: set[Future[pb.CommandResult]] = set()
        self._targets = Targets()
        self._monitor: MonitorServer | None = None
        self.port = self.raft_port = self.monitor_port = 0

    def _hooks(self) -> Hooks:
        """From the Raft thread to this loop, in order."""

        def post(function: Callable[..., None]) -> Callable[..., None]:
            def posted(*arguments: Any) -> None:
                try:
                    self._loop.call_soon_threadsafe(partial(function, *arguments))
                except RuntimeError:
                    log.debug("the API has gone before Raft")  # its loop is closed: the process is ending

            return posted

        return Hooks(
            on_change=post(lambda change: self._feed.take(change)),  # noqa: PLW0108  # made after the hooks
            on_role=post(self._role_changed),
            on_barrier=post(self._barrier_committed),
            on_failure=post(lambda _: self._stop.set()),
        )

    async def start(self) -> None:
        """Listen. Raises OSError or Mq9Error."""
        interceptors = (_TokenCheck(self.settings.token),) if self.settings.token else ()
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=interceptors)
        server.add_generic_rpc_handlers((self._api.handlers(),))
        try:
            self.port = _listen(server, self.settings)
            await self._start_monitor()
            self.raft_port = await asyncio.to_thread(self.engine.start)
        except BaseException:  # whatever it was, the directory must not stay locked
            self.engine.abandon()
            if self._monitor is not None:
                await self._monitor.close()
            raise
        await server.start()
        self._grpc = server

    async def _start_monitor(self) -> None:
        if self.settings.monitor_port < 0:
            return
        from meta_service.monitor import MetaMonitor, Sources  # noqa: PLC0415  # HTTP takes longer to load than all the rest

        engine = self.engine
        self._monitor = MetaMonitor(
            Sources(engine.status, lambda: engine.proposals, lambda: engine.failure, lambda: self._feed.view)
        )
        self.monitor_port = await self._monitor.start(self.settings.monitor_host, self.settings.monitor_port)

    def stop_soon(self) -> None:
        """Begin to stop; `wait_closed` returns when that is done."""
        self._stop.set()

    async def wait_closed(self) -> bool:
        """Serve until told to stop; whether the node stopped in good order."""
        duties = asyncio.ensure_future(self._duties())
        await self._stop.wait()
        duties.cancel()
        await asyncio.to_thread(self.engine.stop)
        self._api.close()
        if self._grpc is not None:
            await self._grpc.stop(GRACE_S)
        if self._monitor is not None:
            await self._monitor.close()
        return self.engine.failure is None

    # --- The leader's duties ------------------------------------------------------------------------------------------

    def _role_changed(self, leads: bool) -> None:  # a hook
        self._api.sessions = Sessions(self._leases) if leads else None

    def _barrier_committed(self, rev: int, proposed_s: float) -> None:
        self._feed.progress(rev)
        if self._api.sessions is not None:
            self._api.sessions.barrier_committed(proposed_s, self._clock.monotonic_s())

    async def _duties(self) -> None:
        every_s = min(DUTY_S_MAX, self._leases.pause_s / 4)
        while True:
            await asyncio.sleep(every_s)
            sessions = self._api.sessions
            if sessions is None:
                continue
            now_s = self._clock.monotonic_s()
            for broker in sessions.overdue(self._feed.view.brokers.values(), now_s):
                log.warning("fencing %s: no heartbeat for %.1f s", broker.id, self._leases.session_s)
                self._propose(pb.MetaCommand(fence=pb.Fence(node=broker.id, incarnation=broker.incarnation)))
            for broker, hold_ms in sessions.suspected(self._feed.view.brokers.values(), now_s):
                log.warning("others lead what %s led: its peers have lost it; deliveries wait %d ms", broker.id, hold_ms)
                self._propose(pb.MetaCommand(depose=pb.Depose(node=broker.id, incarnation=broker.incarnation, hold_ms=hold_ms)))
            placement = controller.placement(self._feed.view)
            if not self._targets.knows(*placement):
                # For a thousand brokers seconds, the first time, in which heartbeats are answered.
                await asyncio.to_thread(self._targets.of, *placement)
            if not self._in_flight:  # what was planned is not in the view yet
                for command in controller.plan(self._feed.view, self._targets)[:PROPOSALS_PER_DUTY_MAX]:
                    self._propose(command)

    def _propose(self, command: pb.MetaCommand) -> None:
        """Whether it is carried out is seen in the view; a command that was overtaken is planned anew."""
        command.now_ms = self._clock.wall_ms()
        future = self.engine.propose(command)
        self._in_flight.add(future)

        def done(finished: Future[pb.CommandResult]) -> None:
            if finished.exception() is None:
                log.debug("%s: %s", command.WhichOneof("op"), finished.result().text or "done")
            self._loop.call_soon_threadsafe(self._in_flight.discard, finished)

        future.add_done_callback(done)


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc is published without types
    """Refuses calls that do not show the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler:
        shown = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        shown = shown if isinstance(shown, bytes) else shown.encode()
        handler = await continuation(handler_call_details)
        if hmac.compare_digest(shown, self._expected) or handler is None:
            return handler
        return _refusal(handler)


def _refusal(handler: Any) -> grpc.RpcMethodHandler:
    """A handler of the same kind that refuses."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")

    async def refuse_stream(_: Any, context: grpc.aio.ServicerContext) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        yield

    codec = (handler.request_deserializer, handler.response_serializer)
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse_stream, *codec)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse_stream, *codec)
    return grpc.unary_unary_rpc_method_handler(refuse, *codec)


def _listen(server: grpc.aio.Server, settings: MetaSettings) -> int:
    """Bind the API's port. Raises OSError."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    try:
        if settings.tls_cert:
            key, certificate, authority = (Path(p).read_bytes() for p in (settings.tls_key, settings.tls_cert, settings.tls_ca))
            credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
            port: int = server.add_secure_port(address, credentials)
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as failure:  # what grpc raises when it cannot bind
        raise OSError(f"cannot listen on {address}: {failure}") from failure
    return port


def _identity(settings: MetaSettings) -> Identity:
    if not settings.tls_cert:
        return Identity(settings.node, settings.cluster, settings.secret.encode())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        context.load_verify_locations(settings.tls_ca)
    return Identity(settings.node, settings.cluster, settings.secret.encode(), server, client)


def _check_api_exposure(settings: MetaSettings) -> None:
    """Whoever reaches the API can take brokers' places: beyond localhost it needs a token or certificates."""
    if settings.token or settings.tls_cert:
        return
    try:
        is_local = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_local = settings.host == "localhost"
    if not is_local:
        raise error("INVALID_REQUEST", reason=f"the API on {settings.host} needs --token or --tls-cert with --tls-ca")
