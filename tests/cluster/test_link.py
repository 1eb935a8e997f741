"""Links between brokers over real sockets: who is let in, what arrives, and what happens when an end is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker_node.cluster.envelopes import ROW_BYTES, Forward, read_forwards
from broker_node.cluster.link import Bounds, Link
from broker_node.cluster.links import PATH, PeerLinks
from mq9 import limits
from mq9.clock import SystemClock
from mq9.errors import Mq9Error
from mq9.settings import Settings
from mq9.v1.peer_pb2 import ClientGone, CoreMessage, PeerBatch, PeerHello
from tests.meta.cluster import until
from tests.support.certificates import Authority

pytestmark = pytest.mark.anyio

CLUSTER = b"the cluster of this test"


class Node:
    """The links of one broker, and what they were told."""

    def __init__(self, name: str, incarnation: int = 1, bounds: Bounds | None = None, **settings: Any) -> None:
        self.hello = PeerHello(node=name, incarnation=incarnation, cluster_id=CLUSTER, version=1)
        self.links = self._make(settings, bounds)
        self.port = 0
        self.batches: list[tuple[Link, PeerBatch]] = []
        self.events: list[tuple[str, str]] = []

    def _make(self, settings: dict[str, Any], bounds: Bounds | None) -> PeerLinks:
        whole = {"peer_port": 0, **settings}
        mine = Settings(node_id=self.hello.node, meta="127.0.0.1:1", **whole)
        links = PeerLinks(mine, lambda: self.hello, SystemClock(), bounds=bounds)
        links.on_batch = lambda link, batch: self.batches.append((link, batch))
        links.on_up = self._note("up")
        links.on_down = self._note("down")
        links.on_accepted = self._note("accepted")
        links.on_accepted_down = self._note("accepted down")
        return links

    def _note(self, event: str) -> Callable[[Link], None]:
        return lambda link: self.events.append((event, link.node))

    async def start(self) -> Node:
        self.port = await self.links.start()
        return self

    def knows(self, *others: Node) -> None:
        self.links.set_peers({node.hello.node: (f"127.0.0.1:{node.port}", node.hello.incarnation) for node in others})

    async def link(self, node: Node) -> Link:
        async def found() -> Link | None:
            return self.links.link(node.hello.node)

        return await until(f"a link to {node.hello.node}", found)

    async def saw(self, event: str, node: Node, times: int = 1) -> None:
        async def seen() -> bool:
            return self.events.count((event, node.hello.node)) >= times

        await until(f"{event} of {node.hello.node}", seen)

    async def heard(self, kind: str, count: int) -> list[Any]:
        def envelopes() -> list[Any]:
            fields = [each for _, batch in self.batches for each in getattr(batch, kind)]
            return [row for rows in fields for row in read_forwards(rows)] if kind == "forwards" else fields

        async def enough() -> bool:
            return len(envelopes()) >= count

        await until(f"{count} {kind}", enough)
        return envelopes()

    async def refused_some(self) -> None:
        async def refused() -> bool:
            return self.links.refused > 0

        await until("a refusal", refused)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    """make(name, incarnation, **settings) -> Node that listens."""
    made: list[Node] = []

    async def build(*arguments: Any, **settings: Any) -> Node:
        made.append(await Node(*arguments, **settings).start())
        return made[-1]

    yield build
    for node in made:
        await node.links.close()


def forward(request: int = 0, *, header: bytes = b"", payload: bytes = b"") -> tuple[str, Forward, int]:
    """What `Link.say` is given."""
    row = Forward(request, 0, 0, 0, 2, b"s", b"", header, payload, "")
    return "forwards", row, ROW_BYTES + len(header) + len(payload)


async def pair(make: Any, **settings: Any) -> tuple[Node, Node]:
    """Two brokers, each with a link to the other."""
    a, b = await make("a", 1, **settings), await make("b", 2, **settings)
    a.knows(b)
    b.knows(a)
    await a.link(b)
    await b.link(a)
    return a, b


async def raw(node: Node, *batches: bytes, token: str = "") -> tuple[list[Any], grpc.StatusCode]:
    """What a stranger gets that sends these messages: answers, and how the stream ended.

    A write that meets the end of the stream makes gRPC for Python say INTERNAL here, whatever the other end said: ask again.
    """
    while (found := await _raw_once(node, *batches, token=token))[1] is grpc.StatusCode.INTERNAL:
        pass
    return found


async def _raw_once(node: Node, *batches: bytes, token: str) -> tuple[list[Any], grpc.StatusCode]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.port}") as channel:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        call = channel.stream_stream(PATH)(metadata=metadata)
        answers = []
        try:
            for batch in batches:
                await call.write(batch)
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.append(answer)
        except grpc.aio.AioRpcError:
            pass  # its code is returned
        return answers, await call.code()


def hello(node: str = "b", incarnation: int = 2, **other: Any) -> bytes:
    fields = {"cluster_id": CLUSTER, "version": 1, **other}
    return PeerBatch(hello=PeerHello(node=node, incarnation=incarnation, **fields)).SerializeToString()


# --- What arrives ---------------------------------------------------------------------------------------------------------


async def test_a_request_goes_out_on_the_dialed_link_and_its_answer_comes_back_on_it(make: Any) -> None:
    a, b = await pair(make)
    link = await a.link(b)
    assert (link.node, link.incarnation, link.is_dialed) == ("b", 2, True)
    link.say(*forward(7))
    (heard,) = await b.heard("forwards", 1)
    assert (heard.request, heard.subject) == (7, b"s")
    theirs, _ = b.batches[0]
    assert (theirs.node, theirs.incarnation, theirs.is_dialed) == ("a", 1, False)
    theirs.send("gone", ClientGone(client=3))
    await a.heard("gone", 1)
    assert a.batches[0][0] is link


async def test_what_is_said_in_one_turn_is_one_batch(make: Any) -> None:
    a, b = await pair(make)
    link = await a.link(b)
    for number in range(100):
        link.say(*forward(number))
        link.send("gone", ClientGone(client=number))
    assert [each.request for each in await b.heard("forwards", 100)] == list(range(100))
    assert [each.client for each in await b.heard("gone", 100)] == list(range(100))
    assert len(b.batches) == 1


async def test_batches_are_bounded_and_in_order(make: Any) -> None:
    a, b = await pair(make)
    link = await a.link(b)
    for number in range(5000):
        link.say(*forward(number))
    for number in range(20):
        link.send("messages", CoreMessage(subject=b"%d" % number, payload=bytes(300_000)))
    assert link.queued_bytes > 20 * 300_000
    assert [each.request for each in await b.heard("forwards", 5000)] == list(range(5000))
    assert [int(each.subject) for each in await b.heard("messages", 20)] == list(range(20))
    for _, batch in b.batches:
        rows = sum(len(read_forwards(rows)) for rows in batch.forwards)
        assert rows + len(batch.messages) <= limits.PEER_BATCH_ENVELOPES_MAX
        assert batch.ByteSize() <= limits.PEER_BATCH_BYTES_MAX

    async def drained() -> bool:
        return link.queued_bytes == 0

    await until("an empty queue", drained)


async def test_a_message_as_large_as_a_client_may_send_arrives(make: Any) -> None:
    a, b = await pair(make)
    (await a.link(b)).say(*forward(payload=bytes(limits.PAYLOAD_BYTES_HARD_MAX), header=b"h" * 16_000))
    (heard,) = await b.heard("forwards", 1)
    assert len(heard.payload) == limits.PAYLOAD_BYTES_HARD_MAX


async def test_what_no_batch_can_hold_is_refused_where_it_is_said(make: Any) -> None:
    a, b = await pair(make, bounds=Bounds(envelope_bytes=1000))
    with pytest.raises(Mq9Error, match="too large"):
        (await a.link(b)).say(*forward(payload=bytes(1000)))
    with pytest.raises(Mq9Error, match="too large"):
        (await a.link(b)).send("messages", CoreMessage(payload=bytes(1000)))
    (await a.link(b)).say(*forward(1))
    await b.heard("forwards", 1)


async def test_a_link_with_too_much_to_say_is_crowded_until_it_is_said(make: Any) -> None:
    a, b = await pair(make)
    link = await a.link(b)
    while not link.is_crowded:
        link.send("messages", CoreMessage(payload=bytes(1 << 20)))

    async def quiet() -> bool:
        return not link.is_crowded

    await until("room on the link", quiet)


async def test_a_peer_that_takes_nothing_is_given_up(make: Any) -> None:
    a, b = await pair(make, bounds=Bounds(backlog_bytes=1 << 20))
    link = await a.link(b)
    for _ in range(3):
        link.send("messages", CoreMessage(payload=bytes(500_000)))
    assert not link.is_up
    assert link.queued_bytes == 0
    link.send("messages", CoreMessage())  # says nothing, and does no harm
    await a.saw("down", b)
    await a.saw("up", b, 2)


# --- Coming and going -----------------------------------------------------------------------------------------------------


async def test_a_broker_that_is_back_is_dialed_again(make: Any) -> None:
    a, b = await pair(make)
    old = await a.link(b)
    port = b.port
    await b.links.close()
    await a.saw("down", b)
    await a.saw("accepted down", b)
    assert a.links.link("b") is None
    old.send("gone", ClientGone())  # lost, silently
    again = await make("b", 2, peer_port=port)
    again.knows(a)
    await a.saw("up", b, 2)
    (await a.link(b)).send("gone", ClientGone(client=9))
    assert [each.client for each in await again.heard("gone", 1)] == [9]


async def test_a_new_incarnation_ends_the_links_of_the_old(make: Any) -> None:
    a, b = await pair(make)
    b.hello = PeerHello(node="b", incarnation=3, cluster_id=CLUSTER, version=1)
    a.knows(b)
    assert a.events[-2:] == [("down", "b"), ("accepted down", "b")]
    b.knows(a)
    assert (await a.link(b)).incarnation == 3
    await b.link(a)
    await a.saw("accepted", b, 2)


async def test_a_broker_that_is_forgotten_is_dialed_no_more_and_not_let_in(make: Any) -> None:
    a, b = await pair(make)
    a.knows()
    assert a.links.link("b") is None
    assert a.links.up() == []
    await b.saw("down", a)
    await a.refused_some()  # b goes on dialing
    a.knows(b)
    await b.saw("up", a, 2)
    await a.link(b)


async def test_each_coming_is_told_once_and_each_going(make: Any) -> None:
    a, b = await pair(make)
    await b.saw("accepted", a)
    await b.links.close()
    await a.saw("down", b)
    await a.saw("accepted down", b)
    await a.links.close()
    for node, other in ((a, "b"), (b, "a")):
        assert sorted(node.events) == [("accepted", other), ("accepted down", other), ("down", other), ("up", other)]


# --- Who is let in --------------------------------------------------------------------------------------------------------


async def test_with_the_token_brokers_find_each_other(make: Any) -> None:
    await pair(make, cluster_token="between brokers")


@pytest.mark.parametrize("theirs", ["", "wrong"])
async def test_without_the_token_nobody_is_heard(make: Any, theirs: str) -> None:
    a, b = await make("a", 1, cluster_token="right"), await make("b", 2, cluster_token=theirs)
    a.knows(b)
    b.knows(a)
    await a.refused_some()
    assert ("accepted", "b") not in a.events
    assert await raw(a, hello(), token=theirs) == ([], grpc.StatusCode.UNAUTHENTICATED)
    answers, _ = await asyncio.wait_for(_first_answer(a, token="right"), 10)
    assert answers.hello.node == "a"


async def _first_answer(node: Node, token: str = "") -> tuple[PeerBatch, None]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.port}") as channel:
        call = channel.stream_stream(PATH)(metadata=(("authorization", f"Bearer {token}"),))
        await call.write(hello())
        return PeerBatch.FromString(await call.read()), None


@pytest.mark.parametrize(
    "first",
    [
        hello(cluster_id=b"another"),
        hello(version=2),
        hello(version=0),
        hello(node="a"),
        hello(node="nobody"),
        hello(node=""),
        hello(incarnation=1),
        PeerBatch(gone=[ClientGone(client=1)]).SerializeToString(),
        b"",
    ],
    ids=["cluster", "version", "no version", "our name", "unknown", "nameless", "old incarnation", "no hello", "empty"],
)  # fmt: skip
async def test_a_hello_that_is_not_of_a_peer_is_refused(make: Any, first: bytes) -> None:
    a, b = await make("a", 1), await make("b", 2)
    a.knows(b)
    assert await raw(a, first) == ([], grpc.StatusCode.FAILED_PRECONDITION)
    assert not [event for event, _ in a.events if event == "accepted"]


async def test_a_node_that_has_not_registered_lets_nobody_in_and_dials_nobody(make: Any) -> None:
    a, b = await make("a", 0), await make("b", 2)
    a.knows(b)
    b.knows(a)
    await a.refused_some()
    assert a.events == b.events == []


async def test_garbage_ends_the_stream_and_nothing_else(make: Any) -> None:
    a, b = await pair(make)
    assert (await raw(a, b"\xff\xff\xff\xff"))[1] is grpc.StatusCode.INVALID_ARGUMENT
    answers, code = await raw(a, hello(), b"\xff\xff\xff\xff")  # takes the place of the stream of b, which dials again
    assert (len(answers), code) == (1, grpc.StatusCode.OK)
    await a.saw("accepted", b, 3)
    (await b.link(a)).send("gone", ClientGone(client=5))
    await a.heard("gone", 1)


async def test_a_stream_that_says_nothing_is_ended(make: Any) -> None:
    a = await make("a", 1, bounds=Bounds(hello_timeout_s=0.05))
    assert await raw(a) == ([], grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_only_so_many_may_be_about_to_say_who_they_are(make: Any) -> None:
    a = await make("a", 1, bounds=Bounds(hellos=0))
    assert await raw(a, hello()) == ([], grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_a_bug_in_a_handler_ends_the_link_and_not_the_node(make: Any) -> None:
    a, b = await pair(make)
    handle = b.links.on_batch
    b.links.on_batch = _broken
    (await a.link(b)).send("gone", ClientGone(client=1))
    await a.saw("down", b)
    b.links.on_batch = handle
    await a.saw("up", b, 2)
    (await a.link(b)).send("gone", ClientGone(client=2))
    assert [each.client for each in await b.heard("gone", 1)] == [2]


def _broken(link: Link, batch: PeerBatch) -> None:
    raise RuntimeError("a bug")


# --- TLS ------------------------------------------------------------------------------------------------------------------


def tls(authority: Authority, name: str, host: str = "127.0.0.1") -> dict[str, str]:
    return {f"cluster_{key}": value for key, value in authority.issue(name, hosts=[host]).settings().items()}


async def test_with_certificates_brokers_find_each_other(make: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    a = await make("a", 1, **tls(authority, "a"))
    b = await make("b", 2, **tls(authority, "b"))
    a.knows(b)
    b.knows(a)
    (await a.link(b)).send("gone", ClientGone(client=1))
    await b.heard("gone", 1)


async def test_a_certificate_of_another_authority_or_none_is_not_heard(make: Any, tmp_path: Path) -> None:
    a = await make("a", 1, **tls(Authority(tmp_path / "ours"), "a"))
    b = await make("b", 2, **tls(Authority(tmp_path / "theirs"), "b"))
    a.knows(b)
    b.knows(a)
    assert await raw(a, hello()) == ([], grpc.StatusCode.UNAVAILABLE)
    assert a.events == b.events == []


async def test_a_certificate_of_another_host_is_not_heard(make: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    a = await make("a", 1, **tls(authority, "a"))
    b = await make("b", 2, **tls(authority, "b", "*.example.org"))
    a.knows(b)
    b.knows(a)
    await a.refused_some()
    assert a.events == b.events == []


async def test_a_port_in_use_and_files_that_are_not_there_are_said_at_start(make: Any) -> None:
    a = await make("a", 1)
    with pytest.raises(OSError, match="cannot listen for brokers"):
        await Node("b", peer_port=a.port).start()
    with pytest.raises(Mq9Error, match="cluster-tls"):
        Node("b", cluster_tls_cert="/no", cluster_tls_key="/no", cluster_tls_ca="/no")
