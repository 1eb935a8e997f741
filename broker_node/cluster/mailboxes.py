"""The mailboxes of a cluster that are not here, and the clients of other nodes for those that are: the `Elsewhere` of a node.

Put together of requests of our clients to other nodes (forward.py) and of theirs to us (owner.py), our clients' subscriptions
(subscriptions.py) and theirs (subscribers.py), lists of public mailboxes (public_lists.py) and dead letters between slots
(dead_letters.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from broker_node.cluster.dead_letters import STORE_LETTER, Letters
from broker_node.cluster.envelopes import ANSWER, Reply, read_replies
from broker_node.cluster.forward import Forwarder, PeerLink, View
from broker_node.cluster.owner import Owner
from broker_node.cluster.public_lists import LIST_PUBLIC, MISSED_PUBLIC, PublicLists
from broker_node.cluster.requests import Ask, PlacedRequest
from broker_node.cluster.subscribers import Subscribers
from broker_node.cluster.subscriptions import Subscriptions
from broker_node.mailbox.listing import Listed, Page
from broker_node.permissions import PUBLIC_LIST
from broker_node.router.client import Client
from broker_node.router.dispatch import Placement, resolve
from broker_node.router.request import Request
from broker_node.router.sublist import Subscription
from mq9.limits import RECLAIM_TICK_S
from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from broker_node.broker import Broker
    from broker_node.loop_hooks import Cancellable
    from broker_node.partition import Partition


class Node(View, Protocol):
    """What is needed of the node."""

    broker: Broker

    def partition(self, slot: int) -> Partition | None:
        """The partition of a slot that is served here now."""

    def partitions(self) -> Collection[Partition]:
        """All of them."""


class ClusterMailboxes:
    """See the module."""

    request: type[Request] = PlacedRequest

    def __init__(self, node: Node) -> None:
        self.node = node
        self.broker = node.broker
        self._ticking: Cancellable | None = None
        self._closed = False
        self._links: dict[str, PeerLink] = {}
        self._leaders: dict[int, tuple[str, int]] = {}  # as of the latest view: name, epoch
        host = node.broker.host
        self.forwarder = Forwarder(node, host.clock, host.hooks, self._serve)
        self.owner = Owner(node.broker, node)
        self.subscriptions = Subscriptions(node, host.hooks)
        self.subscribers = Subscribers(node)
        self.lists = PublicLists(node, self.forwarder)
        self.letters = Letters(node, self.forwarder)
        self.owner.internal = {LIST_PUBLIC: self.lists.answer, STORE_LETTER: self.letters.store}
        # In this order within a batch: a client that has gone has said what it said before that.
        self.handlers: Mapping[str, Callable[[Any, Iterable[Any]], None]] = {
            "forwards": self.owner.on_forwards,
            "gone": self.owner.on_gone,
            "replies": self._on_replies,
            "subs": self.subscribers.on_subs,
            "credits": self.subscribers.on_credits,
            "pushes": self.subscriptions.on_pushes,
        }

    # --- What the broker asks ---------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """Of requests that wait, or are on their way to other nodes: above a limit clients are not read."""
        return self.forwarder.bytes

    def forward(self, request: PlacedRequest) -> None:
        self.forwarder.forward(request)

    def take_back(self, request: PlacedRequest) -> bool:
        if self._closed or self.node.partition(request.slot) is not None or not request.is_repeatable:
            return False
        self.forwarder.repeat(request)
        return True

    def _serve(self, request: PlacedRequest) -> bool:
        """Carry out here what had to wait, or what this node asks itself."""
        partition = self.node.partition(request.slot)
        if partition is None:
            return False
        if isinstance(request, Ask):
            self.owner.ask_here(request)
            return True
        command, _, _ = resolve(self.broker.commands, request.subject)
        assert command is not None
        target = self.broker if command.placement is Placement.AGENT else partition
        self.broker.carry_out(command.handle, target, request, request.subject)
        return True

    def subscribe(self, client: Client, sub: Subscription) -> None:
        self.subscriptions.add(client, sub)

    def unsubscribe(self, sub: Subscription) -> None:
        self.subscriptions.remove(sub)

    def client_closed(self, client: Client) -> None:
        self.subscriptions.client_closed(client)
        for partition in list(self.node.partitions()):
            partition.client_closed(client)
        self.forwarder.client_closed(client)

    def client_writable(self, client: Client) -> None:
        for partition in list(self.node.partitions()):
            partition.pushing.client_writable(client)
        self.subscriptions.client_writable(client)

    def holds_untaken(self, client: Client) -> bool:
        is_held_here = any(partition.pushing.holds_untaken(client) for partition in list(self.node.partitions()))
        return is_held_here or self.subscriptions.holds_untaken(client)

    def listed(self, mailbox: dict[str, Any], event: str) -> None:
        news = Reply(0, subject=PUBLIC_LIST, payload=msgspec.msgpack.encode((mailbox, event)))
        for link in self._links.values():
            link.say("replies", news, news.size)

    def list_public(self, page: Page, listed: Listed) -> None:
        self.lists.ask(page, listed)

    def stats(self) -> dict[str, int]:
        """For monitoring."""
        return {
            "forwarded": self.forwarder.forwarded,
            "in_flight": self.forwarder.in_flight,
            "waiting": len(self.forwarder.waiting),
            "subscriptions": len(self.subscriptions),
            "subscribers": len(self.subscribers),
            **self.owner.stats(),
        }

    def close(self) -> None:
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        self.subscriptions.close()
        self.forwarder.close()

    # --- Slots, views, links ----------------------------------------------------------------------------------

    def opened(self, partition: Partition) -> None:
        assert partition.slot is not None
        partition.mailboxes.count_all = self._count_mailboxes
        partition.dead_letters.send_elsewhere = self.letters.send
        if self._ticking is None:
            self._tick()
        self.subscriptions.slot_opened(partition.slot)
        self.forwarder.look_again(partition.slot)

    def closing(self, partition: Partition) -> None:
        assert partition.slot is not None
        self.subscribers.partition_closing(partition)
        self.owner.partition_closing(partition)
        self.subscriptions.partition_closing(partition.slot, partition)

    def _count_mailboxes(self) -> int:
        return sum(partition.mailboxes.count() for partition in self.node.partitions())

    def _tick(self) -> None:
        self._ticking = self.broker.host.hooks.call_later(RECLAIM_TICK_S, self._tick)
        self.subscribers.tick()

    def view_changed(self, slots: Iterable[meta.Slot]) -> None:
        for slot in slots:
            self.subscriptions.view_changed(slot.slot)
            self.forwarder.look_again(slot.slot)
            leader = self.node.leader(slot.slot), self.node.epoch(slot.slot)
            if leader[0] and self._leaders.get(slot.slot) != leader:
                self._leaders[slot.slot] = leader
                self.broker.directory.look_again()  # the one before may have died with an event unsaid

    def link_up(self, link: PeerLink) -> None:
        self._links[link.node] = link
        missed = Reply(0, subject=MISSED_PUBLIC)  # what became of public mailboxes while there was no link
        link.say("replies", missed, missed.size)
        self.subscriptions.link_up(link)
        self.forwarder.link_up(link)

    def link_down(self, link: PeerLink) -> None:
        if self._links.get(link.node) is link:
            del self._links[link.node]
        self.subscriptions.link_down(link)
        self.forwarder.link_down(link)
        self.subscribers.link_gone(link)
        self.owner.link_gone(link)

    def _on_replies(self, link: PeerLink, replies: Iterable[bytes]) -> None:
        for rows in replies:
            self.forwarder.on_replies(link, read_replies(rows), self._unasked)

    def _unasked(self, reply: Reply) -> None:
        """The rest of a stream of answers, or, under no request's number, what all nodes are told of public mailboxes."""
        if reply.request:
            if reply.subject and reply.outcome == ANSWER:
                self.broker.core.deliver(reply.subject, b"", reply.header, reply.payload)
        elif reply.subject == PUBLIC_LIST:
            mailbox, event = msgspec.msgpack.decode(reply.payload)
            self.broker.directory.changed(mailbox, event)
        elif reply.subject == MISSED_PUBLIC:
            self.broker.directory.look_again()
