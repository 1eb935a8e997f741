"""Core NATS between two nodes over the real links: what the links in memory promise is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker_node.cluster.core import ClusterRouter
from broker_node.cluster.link import Link
from broker_node.cluster.links import PeerLinks
from broker_node.event_loop import AsyncioHooks
from broker_node.router.sublist import Subscription
from mq9 import limits
from mq9.clock import SystemClock
from mq9.settings import Settings
from mq9.v1.peer_pb2 import PeerBatch, PeerHello
from tests.meta.cluster import until

pytestmark = pytest.mark.anyio


class Node:
    """A router and its links. Also a subscriber: `got` is what came."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.got: list[bytes] = []
        self.core = ClusterRouter(AsyncioHooks(asyncio.get_running_loop()))
        hello = PeerHello(node=name, incarnation=1, cluster_id=b"test", version=1)
        settings = Settings(node_id=name, meta="127.0.0.1:1", peer_port=0)
        self.links = PeerLinks(settings, lambda: hello, SystemClock())
        interest = self.core.interest
        self.links.on_batch = self._on_batch
        self.links.on_up = interest.link_up
        self.links.on_down = self.links.on_accepted_down = interest.link_down

    def _on_batch(self, link: Link, batch: PeerBatch) -> None:
        self.core.interest.on_interests(link, batch.interests)
        self.core.interest.on_messages(link, batch.messages)

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        self.got.append(payload)
        if reply:
            self.core.publish(reply, b"", b"", b"answer to " + payload, None)

    def subscribe(self, subject: bytes, queue: bytes = b"") -> Subscription:
        sub = Subscription(self, subject, queue, b"1")
        self.core.subscribe(sub)
        return sub

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"") -> int:
        return self.core.publish(subject, reply, b"", payload, None)

    async def knows(self, count: int) -> None:
        """Until so many subscriptions of others are known."""

        async def known() -> bool:
            return self.core.interest.stats()["remote_subscriptions"] == count

        await until(f"{count} subscriptions of others", known)

    async def has(self, count: int) -> None:
        async def there() -> bool:
            return len(self.got) >= count

        await until(f"{count} messages", there)


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    a, b = Node("a"), Node("b")
    for node in (a, b):
        node.port = await node.links.start()
    for node, other in ((a, b), (b, a)):
        node.links.set_peers({other.name: (f"127.0.0.1:{other.port}", 1)})
    for node in (a, b):

        async def is_linked(node: Node = node) -> bool:
            return node.core.interest.stats()["peers"] == 1

        await until("a link", is_linked)
    yield a, b
    for node in (a, b):
        await node.links.close()


async def test_messages_arrive_in_order(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    b.subscribe(b"x.*", b"q")
    await a.knows(1)
    for number in range(5000):
        assert a.publish(b"x.y", b"%d" % number) == 1
        if number % 1000 == 0:
            await b.has(number // 2)  # so that they leave in many batches, the next ones while others are on the way
    await b.has(5000)
    assert b.got == [b"%d" % number for number in range(5000)]


async def test_requests_are_answered_when_the_inbox_is_new(nodes: tuple[Node, Node]) -> None:
    """Each request has its own inbox, subscribed in the turn the request leaves in."""
    a, b = nodes
    b.subscribe(b"service")
    await a.knows(1)
    inboxes = []
    for number in range(1000):
        inboxes.append(a.subscribe(b"_INBOX.%d" % number))
        assert a.publish(b"service", b"%d" % number, b"_INBOX.%d" % number) == 1
    await a.has(1000)
    assert a.got == [b"answer to %d" % number for number in range(1000)]
    for inbox in inboxes:
        a.core.unsubscribe(inbox)
    await b.knows(0)


async def test_a_node_that_goes_away_wants_nothing_and_is_told_all_when_it_is_back(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    a.subscribe(b"y")
    b.subscribe(b"x")
    await a.knows(1)
    b.links.set_peers({})
    await a.knows(0)
    assert a.publish(b"x", b"lost") == 0
    b.links.set_peers({"a": (f"127.0.0.1:{a.port}", 1)})
    await a.knows(1)

    async def reaches_somebody() -> bool:
        return a.publish(b"x", b"found") == 1

    await until("the way back", reaches_somebody)
    await b.has(1)
    await b.knows(1)
    assert set(b.got) == {b"found"}


async def test_a_flood_is_bounded(nodes: tuple[Node, Node]) -> None:
    """What a turn says beyond the bound is dropped and counted; the link stays."""
    a, b = nodes
    b.subscribe(b"x")
    await a.knows(1)
    link = a.links.link("b")
    assert link is not None
    payload = b"m" * 100_000
    for _ in range(200):
        assert a.publish(b"x", payload) == 1
    assert link.queued_bytes < limits.PEER_QUEUE_BYTES_MAX + 2 * len(payload)
    dropped = a.core.interest.stats()["dropped_msgs"]
    assert dropped > 100
    await b.has(200 - dropped)
    assert len(b.got) == 200 - dropped
    assert a.publish(b"x", b"after") == 1
    await b.has(201 - dropped)
    assert a.links.link("b") is link
