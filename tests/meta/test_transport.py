"""The Raft port: who is let in, what is read, and that nothing anybody sends costs more than a connection."""

from __future__ import annotations

import asyncio
import os
import pickle
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_service.frames import (
    LENGTH,
    NONCE_BYTES,
    FrameError,
    Message,
    Seal,
    decode,
    encode,
    frame_length,
    hello_mac,
    welcome_mac,
)
from meta_service.transport import Events, Identity, Self, Transport, check_exposure
from mq9 import limits
from mq9.errors import Mq9Error
from mq9.v1 import raft_pb2 as pb
from tests.meta.cluster import free_ports, until
from tests.support.certificates import Authority, Pair

pytestmark = pytest.mark.anyio
SECRET = b"a shared secret"
VOTE: Message = {"type": "response_vote", "term": 3}


class Node:
    """A transport that remembers what happened to it."""

    def __init__(self, identity: Identity, peers: dict[str, tuple[str, int]], cluster_id: bytes = b"") -> None:
        self.identity = identity
        self.received: list[tuple[str, Message]] = []
        self.connected: set[str] = set()
        self.greetings: list[tuple[str, Self]] = []
        self.refusal = ""
        events = Events(
            about_self=lambda: Self(True, cluster_id),
            greeted=self._greeted,
            connected=self.connected.add,
            disconnected=self.connected.discard,
            received=lambda peer, message: self.received.append((peer, message)),
        )
        self.transport = Transport(identity, peers, events)

    def _greeted(self, peer: str, about: Self) -> str:
        self.greetings.append((peer, about))
        return self.refusal


Couple = tuple[Node, Node]


async def make_pair(one: Identity, other: Identity) -> Couple:
    ports = free_ports(2)
    nodes = (
        Node(one, {other.node: ("127.0.0.1", ports[1])}),
        Node(other, {one.node: ("127.0.0.1", ports[0])}),
    )
    for node, port in zip(nodes, ports, strict=True):
        await node.transport.start("127.0.0.1", port)
    return nodes


@pytest.fixture
async def pair() -> AsyncIterator[Couple]:
    nodes = await make_pair(Identity("a", "mq9", SECRET), Identity("b", "mq9", SECRET))
    await connected(nodes)
    yield nodes
    for node in nodes:
        await node.transport.close()


async def connected(nodes: Couple) -> None:
    async def both() -> bool:
        return nodes[0].connected == {nodes[1].identity.node} and nodes[1].connected == {nodes[0].identity.node}

    await until("a connection each way", both)


async def refused(node: Node, count: int = 1) -> None:
    async def enough() -> bool:
        return node.transport.refused >= count

    await until("a refusal", enough)


def port_of(node: Node) -> int:
    assert node.transport._server is not None
    return int(node.transport._server.sockets[0].getsockname()[1])


class Stranger:
    """A raw connection to a node's Raft port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, node: Node) -> Stranger:
        return cls(*await asyncio.open_connection("127.0.0.1", port_of(node)))

    async def challenge(self) -> pb.Challenge:
        length = LENGTH.unpack(await self.reader.readexactly(4))[0]
        return pb.Challenge.FromString(await self.reader.readexactly(length))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def is_closed(self) -> bool:
        """Whether the node ends the connection, after whatever it had to say."""
        try:
            async with asyncio.timeout(10):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            pass
        self.writer.close()
        return True


def frame(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


async def test_messages_arrive_as_they_were_sent(pair: Couple) -> None:
    entries = [(b"\0" + os.urandom(number), number + 8, 3) for number in range(200)]
    message = {
        "type": "append_entries", "term": 3, "commit_index": 5, "last_index": 900, "prevLogIdx": 7, "prevLogTerm": 2,
        "entries": entries,
    }  # fmt: skip
    pair[0].transport.send("b", message)
    pair[0].transport.send("b", VOTE)

    async def both() -> bool:
        return len(pair[1].received) == 2

    await until("two messages", both)
    assert pair[1].received == [("a", message), ("a", VOTE)]


async def test_a_pickle_before_anything_else_is_not_looked_at(pair: Couple) -> None:
    """What stock PySyncObj runs as code."""
    stranger = await Stranger.to(pair[0])
    stranger.send(frame(pickle.dumps({"type": "status"})))
    assert await stranger.is_closed()
    await refused(pair[0])


@pytest.mark.parametrize("length", [0, limits.META_HELLO_BYTES_MAX + 1, 2**31, 2**32 - 1])
async def test_a_hello_of_a_wrong_length_is_not_read(pair: Couple, length: int) -> None:
    stranger = await Stranger.to(pair[0])
    stranger.send(LENGTH.pack(length))
    assert await stranger.is_closed()
    await refused(pair[0])


def hello(challenge: pb.Challenge, secret: bytes, **more: object) -> bytes:
    fields: dict[str, object] = {"version": 1, "cluster": "mq9", "sender": "b", "receiver": "a", "nonce": b"n" * 16, **more}
    made = pb.Hello(**fields)  # type: ignore[arg-type]  # any field
    made.mac = hello_mac(secret, challenge.nonce, made)
    return frame(made.SerializeToString())


@pytest.mark.parametrize(
    ("secret", "more"),
    [
        (b"wrong", {}),
        (b"", {}),
        (SECRET, {"cluster": "other"}),
        (SECRET, {"sender": "c"}),
        (SECRET, {"receiver": "b"}),
        (SECRET, {"version": 2}),
    ],
)
async def test_who_is_not_the_peer_is_refused(pair: Couple, secret: bytes, more: dict[str, object]) -> None:
    stranger = await Stranger.to(pair[0])
    stranger.send(hello(await stranger.challenge(), secret, **more))
    assert await stranger.is_closed()
    await refused(pair[0])
    assert pair[0].greetings == [("b", Self(True, b""))], "only the real peer's words were listened to"


class Answering:
    """Whoever took the address of `b`, and answers whom dials it with a welcome of this secret."""

    def __init__(self, secret: bytes, nonce: bytes = b"n" * NONCE_BYTES) -> None:
        self.secret, self.nonce = secret, nonce
        self.told = b""  # what came after a welcome
        self.ends: asyncio.Queue[None] = asyncio.Queue()  # one for each connection

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(pb.Challenge(version=1, nonce=self.nonce).SerializeToString()))
        length = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
        heard = pb.Hello.FromString(await reader.readexactly(length))
        writer.write(frame(pb.Welcome(version=1, mac=welcome_mac(self.secret, self.nonce, heard)).SerializeToString()))
        try:
            while data := await reader.read(65536):
                self.told += data
        except ConnectionError:  # the dialler aborts what it does not trust
            pass
        self.ends.put_nowait(None)
        writer.close()


async def dialling(secret: bytes) -> tuple[Node, Answering, asyncio.Server]:
    """A node `a` that dials somebody who answers as `b`."""
    answering = Answering(secret)
    server = await asyncio.start_server(answering.met, "127.0.0.1", 0)
    node = Node(Identity("a", "mq9", SECRET), {"b": ("127.0.0.1", server.sockets[0].getsockname()[1])})
    await node.transport.start("127.0.0.1", 0)
    return node, answering, server


@pytest.mark.parametrize("secret", [b"wrong", b""])
async def test_who_answers_without_the_secret_is_left_and_told_nothing(secret: bytes) -> None:
    node, answering, server = await dialling(secret)
    async with asyncio.timeout(20):
        for _ in range(3):  # it tries again, and is not taken in then either
            await answering.ends.get()
            assert not node.connected
            node.transport.send("b", VOTE)
    assert not answering.told
    await node.transport.close()
    server.close()


async def test_who_answers_with_the_secret_is_talked_to() -> None:
    node, answering, server = await dialling(SECRET)

    async def told() -> bool:
        node.transport.send("b", VOTE)
        return bool(answering.told)

    await until("the node to talk", told)
    assert node.connected == {"b"}
    await node.transport.close()
    server.close()


async def test_a_recorded_hello_does_not_open_another_connection(pair: Couple) -> None:
    one, other = await Stranger.to(pair[0]), await Stranger.to(pair[0])
    recorded = hello(await one.challenge(), SECRET)
    await other.challenge()
    other.send(recorded)
    assert await other.is_closed()
    await refused(pair[0])
    one.writer.close()


@pytest.mark.parametrize("spoil", ["tag", "length", "garbage"])
async def test_a_spoiled_frame_ends_the_connection(pair: Couple, spoil: str) -> None:
    """A peer that was let in, or someone in the middle of its connection."""
    stranger = await Stranger.to(pair[0])
    challenge = await stranger.challenge()
    stranger.send(hello(challenge, SECRET))
    bad = {
        "tag": frame(b"\0" * 16 + encode(VOTE)),
        "length": LENGTH.pack(limits.META_FRAME_BYTES_MAX + 1),
        "garbage": frame(os.urandom(400)),
    }
    stranger.send(bad[spoil])
    assert await stranger.is_closed()
    await refused(pair[0])
    assert pair[0].received == []
    await connected(pair)  # the real peer, which the impostor displaced, is back


async def test_silence_is_not_waited_for(pair: Couple) -> None:
    strangers = [await Stranger.to(pair[0]) for _ in range(limits.META_HELLOS_MAX + 5)]
    closed = await asyncio.gather(*(stranger.is_closed() for stranger in strangers))
    assert all(closed)
    pair[0].transport.send("b", VOTE)

    async def arrived() -> bool:
        return bool(pair[1].received)

    await until("the peers still talk", arrived)


async def test_a_peer_with_another_clusters_data_is_refused() -> None:
    nodes = await make_pair(Identity("a", "mq9", SECRET), Identity("b", "mq9", SECRET))
    nodes[0].refusal = "b has the data of another cluster"
    await refused(nodes[0], 2)
    assert "b" not in nodes[1].connected or nodes[0].greetings
    for node in nodes:
        await node.transport.close()


async def test_what_a_peer_does_not_read_is_dropped_not_kept(pair: Couple) -> None:
    """A stopped peer must not fill this node's memory."""
    connection = pair[0].transport._out["b"][0]
    connection.transport.set_write_buffer_limits(high=1 << 30)
    command = b"\0" + os.urandom(limits.META_COMMAND_BYTES_MAX)
    message = {
        "type": "append_entries", "term": 1, "commit_index": 1, "last_index": 2, "prevLogIdx": 1, "prevLogTerm": 0,
        "entries": [(command, 2, 1)],
    }  # fmt: skip
    for _ in range(80):  # without a chance to be written
        pair[0].transport.send("b", message)
    assert connection.transport.get_write_buffer_size() < limits.META_PEER_PENDING_BYTES_MAX + 2 * len(command)
    assert not pair[0].transport.has_room("b")
    assert pair[0].transport.dropped > 0


# --- TLS ----------------------------------------------------------------------------------------------------------------


def tls(node: str, files: Pair, secret: bytes = b"") -> Identity:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.load_cert_chain(files.cert, files.key)
        context.load_verify_locations(files.ca)
    return Identity(node, "mq9", secret, server, client)


async def test_peers_with_certificates_of_their_hosts_are_let_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    nodes = await make_pair(tls("a", authority.issue("a"), SECRET), tls("b", authority.issue("b"), SECRET))
    await connected(nodes)
    for node in nodes:
        await node.transport.close()


@pytest.mark.parametrize("wrong", ["authority", "host", "none"])
async def test_peers_without_the_right_certificate_are_not(tmp_path: Path, wrong: str) -> None:
    authority = Authority(tmp_path / "right")
    good = tls("a", authority.issue("a"))
    bad = {
        "authority": lambda: tls("b", Authority(tmp_path / "wrong").issue("b")),
        "host": lambda: tls("b", authority.issue("b", hosts=["127.0.0.2"])),
        "none": lambda: Identity("b", "mq9"),
    }[wrong]()
    nodes = await make_pair(good, bad)
    stranger = Stranger(*await asyncio.open_connection("127.0.0.1", port_of(nodes[0])))
    stranger.send(frame(b"plain text"))
    assert await stranger.is_closed()
    if wrong == "host":  # TLS itself does not mind a client's name; we do
        await refused(nodes[0])
    for node in nodes:
        await node.transport.close()
    assert (nodes[0].connected, nodes[0].greetings, nodes[1].connected) == (set(), [], set())


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org"])  # noqa: S104  # that is what is refused
async def test_nothing_listens_beyond_localhost_without_a_proof(host: str) -> None:
    with pytest.raises(Mq9Error, match="needs --secret"):
        check_exposure(host, Identity("a", "mq9"))
    check_exposure(host, Identity("a", "mq9", SECRET))
    for local in ("127.0.0.1", "::1", "localhost"):
        check_exposure(local, Identity("a", "mq9"))


# --- Frames without a network -------------------------------------------------------------------------------------------


def test_a_seal_takes_each_frame_once_and_in_order() -> None:
    writer, reader = Seal(b"k"), Seal(b"k")
    first, second = writer.wrap(b"one"), writer.wrap(b"two")
    assert reader.unwrap(first[4:]) == b"one"
    with pytest.raises(FrameError):
        reader.unwrap(first[4:])
    assert Seal(None).unwrap(b"x") == b"x"
    with pytest.raises(FrameError):
        Seal(b"k").unwrap(second[4:])


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_only_frame_errors_come_out_of_a_frame(data: bytes) -> None:
    for read in (decode, Seal(b"k").unwrap, lambda text: frame_length((text + b"\0" * 4)[:4])):
        try:
            read(data)
        except FrameError:
            continue


def test_kinds_of_messages_that_pysyncobj_has_and_we_do_not_cannot_be_sent() -> None:
    for kind in ("apply_command", "apply_command_response", "readonly", "status"):
        with pytest.raises(KeyError):
            encode({"type": kind, "term": 1})
