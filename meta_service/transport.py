"""TCP between meta nodes: who is at the other end, frames in and out, reconnecting. Knows no Raft.

Each node dials every other one and sends on the connection it dialled; what it is sent comes on connections it accepted.
Before anything else both ends prove themselves: with TLS by certificates that name their hosts, with a secret by its HMAC
over the other's challenge, or both. Without either, `check_exposure` lets a node listen on the loopback address only.

All of it runs on the event loop of the thread that runs Raft. Frames are bounded before they are read, hellos are small,
few and short of time, and what a peer does not read is dropped: Raft repeats it.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import random
import secrets
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from meta_service.frames import (
    LENGTH,
    NONCE_BYTES,
    VERSION,
    FrameError,
    Message,
    Seal,
    decode,
    encode,
    frame_key,
    frame_length,
    hello_mac,
    welcome_mac,
)
from mq9 import limits
from mq9.errors import error
from mq9.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

REDIAL_S = (0.05, 0.3)  # a random time between these after a connection failed or ended
CONNECT_TIMEOUT_S = 1.0
USER_TIMEOUT_MS = 1500  # unacknowledged bytes end a connection after this: a new one finds the way faster than TCP's backoff

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is, and how peers prove themselves. `secret` empty and `tls` None: not at all."""

    node: str
    cluster: str
    secret: bytes = b""
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Self:
    """What a node tells of itself in its hello."""

    blank: bool
    cluster_id: bytes


@dataclass(frozen=True, slots=True)
class Events:
    """What the transport calls, on its loop."""

    about_self: Callable[[], Self]
    greeted: Callable[[str, Self], str]  # a peer said who it is: a reason to refuse it, or nothing
    connected: Callable[[str], None]
    disconnected: Callable[[str], None]
    received: Callable[[str, Message], None]


def check_exposure(host: str, identity: Identity) -> None:
    """Raises INVALID_REQUEST for listening to others without any means of telling who they are."""
    if identity.secret or identity.server_tls:
        return
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local:
        raise error("INVALID_REQUEST", reason=f"the Raft port on {host} needs --secret or --tls-cert with --tls-ca")


class Transport:
    """The connections of one node. Use it on one event loop."""

    def __init__(self, identity: Identity, peers: Mapping[str, Address], events: Events) -> None:
        self._identity = identity
        self._peers = dict(peers)
        self._events = events
        self._out: dict[str, tuple[asyncio.StreamWriter, Seal]] = {}
        self._in: dict[str, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._hellos = 0
        self.refused = 0  # connections that did not prove themselves, or sent what no peer sends
        self.dropped = 0  # frames that a peer did not take

    async def start(self, host: str, port: int) -> int:
        """Listen and begin dialling; the port."""
        check_exposure(host, self._identity)
        self._server = await asyncio.start_server(
            lambda reader, writer: self._spawn(self._accept(reader, writer)), host, port, ssl=self._identity.server_tls,
            ssl_handshake_timeout=limits.META_HELLO_TIMEOUT_S if self._identity.server_tls else None,
        )  # fmt: skip
        for peer in self._peers:
            self._spawn(self._dial_for_ever(peer))
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- Sending --------------------------------------------------------------------------------------------------

    def send(self, peer: str, message: Message) -> None:
        """Send, or drop the message when the peer is not connected or does not read."""
        connection = self._out.get(peer)
        if connection is None:
            return
        writer, seal = connection
        if writer.transport.get_write_buffer_size() > limits.META_PEER_PENDING_BYTES_MAX:
            self.dropped += 1
            return
        writer.write(seal.wrap(encode(message)))

    def has_room(self, peer: str) -> bool:
        connection = self._out.get(peer)
        return connection is not None and (
            connection[0].transport.get_write_buffer_size() < limits.META_PEER_PENDING_BYTES_MAX // 2
        )

    # --- Dialling -------------------------------------------------------------------------------------------------

    async def _dial_for_ever(self, peer: str) -> None:
        while True:
            try:
                await self._dial(peer)
            except (OSError, FrameError, DecodeError, TimeoutError, asyncio.IncompleteReadError) as failure:
                log.debug("connection to %s: %r", peer, failure)
            await asyncio.sleep(random.uniform(*REDIAL_S))

    async def _dial(self, peer: str) -> None:
        host, port = self._peers[peer]
        tls = self._identity.client_tls
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=host if tls else None)
        try:
            _tune(writer)
            async with asyncio.timeout(limits.META_HELLO_TIMEOUT_S):
                seal = await self._introduce(peer, reader, writer)
            self._out[peer] = (writer, seal)
            log.info("connected to %s", peer)
            self._events.connected(peer)
            await reader.read(1)  # nothing comes here: whatever ends this read ends the connection
        finally:
            writer.transport.abort()
            if self._out.pop(peer, None) is not None:
                self._events.disconnected(peer)

    async def _introduce(self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Seal:
        identity, about = self._identity, self._events.about_self()
        challenge = pb.Challenge.FromString(await _read_hello(reader))
        if challenge.version != VERSION:
            raise FrameError(f"{peer} speaks version {challenge.version}")
        hello = pb.Hello(
            version=VERSION, cluster=identity.cluster, sender=identity.node, receiver=peer,
            nonce=secrets.token_bytes(NONCE_BYTES), blank=about.blank, cluster_id=about.cluster_id,
        )  # fmt: skip
        hello.mac = hello_mac(identity.secret, challenge.nonce, hello)
        _write_hello(writer, hello.SerializeToString())
        welcome = pb.Welcome.FromString(await _read_hello(reader))
        if not hmac.compare_digest(welcome.mac, welcome_mac(identity.secret, challenge.nonce, hello)):
            raise FrameError(f"whoever answers at the address of {peer} does not know the secret")
        return Seal(frame_key(identity.secret, challenge.nonce, hello))

    # --- Accepting ------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = ""
        try:
            _tune(writer)
            peer, seal = await self._greet(reader, writer)
            while self._in.get(peer) is writer:  # a newer connection's frames must not be overtaken by this one's
                length = frame_length(await reader.readexactly(LENGTH.size))
                self._events.received(peer, decode(seal.unwrap(await reader.readexactly(length))))
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the connection ended, which is the peer's affair
        except (FrameError, DecodeError) as failure:
            self.refused += 1
            log.warning("closed the connection of %s: %s", peer or writer.get_extra_info("peername"), failure)
        finally:
            writer.transport.abort()
            if self._in.get(peer) is writer:
                del self._in[peer]

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, Seal]:
        if self._hellos >= limits.META_HELLOS_MAX:
            raise FrameError("too many connections that have not said who they are")
        self._hellos += 1
        try:
            async with asyncio.timeout(limits.META_HELLO_TIMEOUT_S):
                nonce = secrets.token_bytes(NONCE_BYTES)
                _write_hello(writer, pb.Challenge(version=VERSION, nonce=nonce).SerializeToString())
                hello = pb.Hello.FromString(await _read_hello(reader))
        finally:
            self._hellos -= 1
        self._check_hello(hello, nonce, writer)
        older = self._in.get(hello.sender)
        if older is not None:
            older.transport.abort()  # the peer has given that one up, or it would not have dialled again
        self._in[hello.sender] = writer
        welcome = pb.Welcome(version=VERSION, mac=welcome_mac(self._identity.secret, nonce, hello))
        _write_hello(writer, welcome.SerializeToString())
        return hello.sender, Seal(frame_key(self._identity.secret, nonce, hello))

    def _check_hello(self, hello: pb.Hello, nonce: bytes, writer: asyncio.StreamWriter) -> None:
        """Raises FrameError unless this is the peer it says it is, of our cluster, talking to us."""
        identity = self._identity
        if not hmac.compare_digest(hello.mac, hello_mac(identity.secret, nonce, hello)):
            raise FrameError("it does not know the secret")
        if hello.version != VERSION or hello.cluster != identity.cluster or hello.receiver != identity.node:
            raise FrameError(f"it looks for {hello.receiver!r} of cluster {hello.cluster!r}, version {hello.version}")
        if hello.sender not in self._peers:
            raise FrameError(f"{hello.sender!r} is not a member")
        if identity.server_tls is not None and not _names(writer, self._peers[hello.sender][0]):
            raise FrameError(f"its certificate does not name the host of {hello.sender}")
        reason = self._events.greeted(hello.sender, Self(hello.blank, hello.cluster_id))
        if reason:
            raise FrameError(reason)


async def _read_hello(reader: asyncio.StreamReader) -> bytes:
    length = frame_length(await reader.readexactly(LENGTH.size), limits.META_HELLO_BYTES_MAX)
    return await reader.readexactly(length)


def _write_hello(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(LENGTH.pack(len(body)) + body)


def _tune(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)


def _names(writer: asyncio.StreamWriter, host: str) -> bool:
    """Whether the certificate at the other end names this host, as a name or as an address."""
    certificate = writer.get_extra_info("peercert") or {}
    names = certificate.get("subjectAltName", ())
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return any(kind == "DNS" and _matches(value, host) for kind, value in names)
    return any(kind == "IP Address" and ipaddress.ip_address(value) == wanted for kind, value in names)


def _matches(pattern: str, host: str) -> bool:
    """A certificate's name, whose first label may be `*`."""
    pattern, host = pattern.lower(), host.lower()
    return pattern == host or (pattern.startswith("*.") and host.partition(".")[2] == pattern[2:])
