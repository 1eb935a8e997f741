"""gRPC streams between brokers: who is at the other end, batches out and in, dialing again. Knows no slots.

Each broker dials every other one. Requests go out on the stream we dialed, their answers come back on it; requests of others
come on streams we accepted. Before anything else both ends say who they are and of which cluster (`PeerHello`); who they are
is proven by the cluster's token, by certificates that name their hosts, or both.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from broker_node.cluster.certificates import names_host, read_tls
from broker_node.cluster.link import Bounds, Link
from broker_node.cluster.tasks import uncancelled
from mq9 import limits
from mq9.clock import Clock
from mq9.settings import Settings, check_cluster
from mq9.v1.peer_pb2 import PeerBatch, PeerHello

log = logging.getLogger("mq9.peers")

VERSION: Final = 1
PATH: Final = "/mq9.v1.Peer/Exchange"
REDIAL_S: Final = 0.1  # before the second attempt; each further one waits twice as long
STEADY_S: Final = 2.0  # a link that lasted this long was no failed attempt
STREAMS_MAX: Final = limits.META_BROKERS_MAX + limits.PEER_HELLOS_MAX
GRACE_S: Final = 0.2  # for streams that are ending when the node stops

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.PEER_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.PEER_MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", limits.PEER_KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", limits.PEER_KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", limits.PEER_KEEPALIVE_MS // 2),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: what a message becomes when unpacked has no limit
)
_SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", limits.PEER_STREAMS_PER_CONNECTION_MAX),
)
_CHANNEL_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new attempt is a new connection
)


class Refused(Exception):
    """Whoever is at the other end is not who it should be."""


@dataclass(slots=True)
class _Peer:
    """A broker we dial."""

    node: str
    address: str
    incarnation: int
    task: asyncio.Task[None] | None = None
    link: Link | None = None


class PeerLinks:
    """The links of one node. Everything happens on its event loop; set the hooks before `start`."""

    def __init__(
        self, settings: Settings, identity: Callable[[], PeerHello], clock: Clock, *, bounds: Bounds | None = None
    ) -> None:
        """`identity` is what we say of ourselves; without an incarnation nobody is dialed or let in."""
        check_cluster(settings)
        self._settings = settings
        self._identity = identity
        self._clock = clock
        self._bounds = bounds or Bounds()
        self._tls = read_tls(settings)
        self._server: grpc.aio.Server | None = None
        self._peers: dict[str, _Peer] = {}
        self._accepted: dict[str, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._said_incarnation = 0
        self._hellos = 0
        self._closed = False
        self.refused = 0  # streams of whoever could not prove to be a broker of this cluster, or said what none says
        self.on_batch: Callable[[Link, PeerBatch], None] = _ignore_batch  # on dialed and on accepted streams
        self.on_up: Callable[[Link], None] = _ignore
        self.on_down: Callable[[Link], None] = _ignore
        self.on_accepted: Callable[[Link], None] = _ignore
        self.on_accepted_down: Callable[[Link], None] = _ignore

    async def start(self) -> int:
        """Listen; the port. Raises OSError."""
        handler = grpc.stream_stream_rpc_method_handler(self._exchange)  # bytes in, bytes out: a batch is parsed here
        service, _, method = PATH[1:].partition("/")
        server = grpc.aio.server(options=[*_OPTIONS, *_SERVER_OPTIONS], maximum_concurrent_rpcs=STREAMS_MAX)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = self._bind(server)
        await server.start()
        self._server = server
        return port

    def _bind(self, server: grpc.aio.Server) -> int:
        host = self._settings.peer_host or "0.0.0.0"  # noqa: S104  # what an empty setting says
        address = f"[{host}]:{self._settings.peer_port}" if ":" in host else f"{host}:{self._settings.peer_port}"
        try:
            if self._tls is None:
                port: int = server.add_insecure_port(address)
            else:
                authority, key, certificate = self._tls
                credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
                port = server.add_secure_port(address, credentials)
        except RuntimeError as failure:  # what grpc raises when it cannot bind
            raise OSError(f"cannot listen for brokers on {address}: {failure}") from failure
        if not port:
            raise OSError(f"cannot listen for brokers on {address}")
        return port

    async def close(self) -> None:
        """End all streams and stop listening."""
        self._closed = True
        for node in list(self._peers):
            self._forget(node, "this node stops")
        for link in list(self._accepted.values()):
            self._accepted_ended(link, "this node stops")
        if self._server is not None:
            await self._server.stop(GRACE_S)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def link(self, node: str) -> Link | None:
        """The dialed link to `node`, if it is up."""
        peer = self._peers.get(node)
        return peer.link if peer is not None else None

    def up(self) -> list[str]:
        """The nodes that `link` has a link to."""
        return [peer.node for peer in self._peers.values() if peer.link is not None]

    @property
    def is_filling(self) -> bool:
        """Whether one of these has half of what is too much for it."""
        return any(peer.link is not None and peer.link.is_filling for peer in self._peers.values())

    def set_peers(self, peers: Mapping[str, tuple[str, int]]) -> None:
        """Dial these brokers, {node: (address, incarnation)}, and forget all others.

        A broker that is at another address, or has started anew, is dialed anew, and what older processes of it opened ends.
        """
        if self._closed:
            return
        mine = self._identity()
        renewed = mine.incarnation != self._said_incarnation
        self._said_incarnation = mine.incarnation
        wanted = {node: place for node, place in peers.items() if node != mine.node}
        for node, peer in list(self._peers.items()):
            if renewed or wanted.get(node) != (peer.address, peer.incarnation):
                self._forget(
                    node, "this node has registered anew" if renewed else "its session is over, or another one has begun"
                )
        for node, link in list(self._accepted.items()):
            if node not in wanted or link.incarnation < wanted[node][1]:
                self._accepted_ended(link, "its session is over")
        for node, (address, incarnation) in wanted.items():
            if node not in self._peers and mine.incarnation:
                peer = self._peers[node] = _Peer(node, address, incarnation)
                peer.task = self._spawn(uncancelled("a link", partial(self._dial_for_ever, peer)))

    def _forget(self, node: str, reason: str) -> None:
        peer = self._peers.pop(node)
        self._dialed_ended(peer, reason)
        if peer.task is not None:
            peer.task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- Dialing --------------------------------------------------------------------------------------------------

    async def _dial_for_ever(self, peer: _Peer) -> None:
        wait_s = REDIAL_S
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await self._dial(peer)
            except (grpc.RpcError, OSError, TimeoutError, DecodeError, Refused) as failure:
                log.debug("no link to %s at %s: %s", peer.node, peer.address, _said(failure))
            if self._clock.monotonic_s() - began_s > STEADY_S:
                wait_s = REDIAL_S
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # spreads the dialing of many brokers
            wait_s = min(2 * wait_s, limits.PEER_REDIAL_S_MAX)

    async def _dial(self, peer: _Peer) -> None:
        channel = self._channel(peer.address)
        token = self._settings.cluster_token
        try:
            call = channel.stream_stream(PATH)(metadata=(("authorization", f"Bearer {token}"),) if token else ())
            try:
                async with asyncio.timeout(self._bounds.hello_timeout_s):
                    await call.write(PeerBatch(hello=self._identity()).SerializeToString())
                    data = await call.read()
                if data is grpc.aio.EOF:
                    raise Refused(f"{await call.code()}: {await call.details()}")
                hello = PeerBatch.FromString(data).hello
                reason = self._mismatch(hello)
                if reason or hello.node != peer.node or hello.incarnation < peer.incarnation:
                    raise Refused(reason or f"{hello.node!r} is there in incarnation {hello.incarnation}")
                link = peer.link = Link(peer.node, hello.incarnation, self._bounds, is_dialed=True)
                log.info("link to %s at %s", peer.node, peer.address)
                self._tell(self.on_up, link)
                await self._run(link, call)
                self._dialed_ended(peer, "the stream ended")
            finally:
                call.cancel()
        finally:
            self._dialed_ended(peer, "the stream broke")
            await channel.close()

    def _channel(self, address: str) -> grpc.aio.Channel:
        options = [*_OPTIONS, *_CHANNEL_OPTIONS]
        if self._tls is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*self._tls), options=options)

    def _dialed_ended(self, peer: _Peer, reason: str) -> None:
        link, peer.link = peer.link, None
        if link is None:
            return
        link.close(reason)
        log.info("the link to %s is down: %s", link.node, link.reason)
        self._tell(self.on_down, link)

    # --- Accepting ------------------------------------------------------------------------------------------------

    async def _exchange(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        """A stream that another broker opened."""
        if not self._is_let_in(context):
            await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        if self._hellos >= self._bounds.hellos:
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams that have not said whose they are")
        hello = await self._heard_hello(context)
        reason = self._mismatch(hello) or self._unknown(hello, context)
        if reason:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, reason)
        await context.write(PeerBatch(hello=self._identity()).SerializeToString())
        older = self._accepted.get(hello.node)
        if older is not None:
            self._accepted_ended(older, "it has opened another stream")
        link = self._accepted[hello.node] = Link(hello.node, hello.incarnation, self._bounds, is_dialed=False)
        self._tell(self.on_accepted, link)
        try:
            await self._run(link, context)
        finally:
            self._accepted_ended(link, "the stream ended")

    async def _heard_hello(self, context: grpc.aio.ServicerContext) -> PeerHello:
        self._hellos += 1
        try:
            async with asyncio.timeout(self._bounds.hello_timeout_s):
                data = await context.read()
            return PeerBatch.FromString(b"" if data is grpc.aio.EOF else data).hello
        except TimeoutError:
            await self._refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")
        except DecodeError:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "no hello was sent")
        finally:
            self._hellos -= 1
        raise AssertionError("abort raises")

    async def _refuse(self, context: grpc.aio.ServicerContext, status: grpc.StatusCode, reason: str) -> None:
        self.refused += 1
        log.debug("refused the stream of %s: %s", context.peer(), reason)
        await context.abort(status, reason)

    def _is_let_in(self, context: grpc.aio.ServicerContext) -> bool:
        if not self._settings.cluster_token:
            return True
        shown = dict(context.invocation_metadata() or ()).get("authorization", "")
        shown = shown if isinstance(shown, bytes) else shown.encode()
        return hmac.compare_digest(shown, f"Bearer {self._settings.cluster_token}".encode())

    def _mismatch(self, hello: PeerHello) -> str:
        """Why nobody who says this can be a peer; empty when it can."""
        mine = self._identity()
        if not hello.node:
            return "no hello was sent"
        if hello.version != VERSION:
            return f"{hello.node} speaks version {hello.version}, this is {VERSION}"
        if not mine.incarnation or hello.cluster_id != mine.cluster_id:
            return f"{hello.node} is of another cluster than {mine.node}, or {mine.node} is not registered"
        if hello.node == mine.node:
            return f"two brokers are called {mine.node}"
        return ""

    def _unknown(self, hello: PeerHello, context: grpc.aio.ServicerContext) -> str:
        """Why whoever says this may not open a stream now; empty when it may."""
        peer = self._peers.get(hello.node)
        if peer is None:
            return f"no broker {hello.node} is registered, as far as {self._identity().node} knows"
        if hello.incarnation < peer.incarnation:
            return f"{hello.node} has started anew since incarnation {hello.incarnation}"
        if self._tls is not None and not names_host(context, peer.address.rpartition(":")[0].strip("[]")):
            return f"the certificate does not name the host of {hello.node}"
        return ""

    def _accepted_ended(self, link: Link, reason: str) -> None:
        link.close(reason)
        if self._accepted.get(link.node) is link:
            del self._accepted[link.node]
            self._tell(self.on_accepted_down, link)

    # --- Both ------------------------------------------------------------------------------------------------------

    async def _run(self, link: Link, stream: Any) -> None:
        """Carry batches until either end, or the network, ends the stream. `stream` has `read` and `write`."""
        works = [self._read_all(link, stream), link.write_all(stream.write), link.ended.wait()]
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and task.exception() is not None:
                    link.close(_said(task.exception()))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_all(self, link: Link, stream: Any) -> None:
        while True:
            data = await stream.read()
            if data is grpc.aio.EOF or not link.is_up:
                return
            try:
                batch = PeerBatch.FromString(data)
            except DecodeError:
                self.refused += 1
                log.warning("closing the link of %s: it sent what is no batch", link.node)
                link.close("it sent what is no batch")
                return
            try:
                self.on_batch(link, batch)
            except Exception:  # one link must not end the process; both sides begin anew
                log.exception("closing the link of %s: a bug in what handles its batches", link.node)
                link.close("a bug in what handles its batches")
                return

    def _tell(self, hook: Callable[[Link], None], link: Link) -> None:
        try:
            hook(link)
        except Exception:  # one link must not end the process
            log.exception("closing the link of %s: a bug in what handles its coming and going", link.node)
            link.close("a bug in what handles its coming and going")


def _said(failure: BaseException | None) -> str:
    if isinstance(failure, grpc.aio.AioRpcError):
        return f"{failure.code().name}: {failure.details()}"
    return str(failure) or type(failure).__name__


def _ignore(link: Link) -> None:
    """Nobody wants to know."""


def _ignore_batch(link: Link, batch: PeerBatch) -> None:
    """Nobody listens yet."""
