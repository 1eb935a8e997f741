"""Clients of other nodes that subscribe to mailboxes served here (the older dialect): pushed to over the links.

To the domain each such subscription is a client of its own: what was said to it and what its socket took are counted by
subscription, in bytes as they are said here, and the other end answers with how far that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from broker_node.cluster.owner import RemoteClient
from broker_node.mailbox.model import Fetched, Mailbox
from broker_node.router.sublist import Subscription
from mq9.limits import PUSH_AHEAD_BYTES
from mq9.storage.layout import TIERS
from mq9.v1 import peer_pb2 as peer

if TYPE_CHECKING:
    from broker_node.cluster.forward import PeerLink
    from broker_node.cluster.mailboxes import Node
    from broker_node.mailbox.pushing import Push
    from broker_node.partition import Partition

_OVERHEAD_BYTES: Final = 64  # of a pushed message besides its header and payload, about


class RemoteSubscriber(RemoteClient):
    """One subscription of a client of another node, as a `Client`."""

    def __init__(self, link: PeerLink, wanted: peer.RemoteSub, partition: Partition) -> None:
        super().__init__(wanted.client_name, wanted.dialect)
        self.link = link
        self.number = wanted.sub
        self.partition = partition
        self.sub = Subscription(self, wanted.subject, wanted.queue, b"")
        self.said = 0
        self.taken = 0
        self.other_is_ready = True
        self.is_held_up = False  # by the link alone: nothing comes that would wake it
        self._current = (0, 0, 0)  # mailbox, tier and id of what is being said

    def follow(self, push: Push, wanted: peer.RemoteSub) -> None:
        """Begin where the subscription was on another node, and note what is said."""
        if wanted.mailbox and len(wanted.after) == TIERS:
            push.mailbox_id = wanted.mailbox
            push.after = list(wanted.after)
        say = push.deliver

        def deliver(mailbox: Mailbox, item: Fetched) -> None:
            self._current = (mailbox.id, item.tier, item.msg_id)
            say(mailbox, item)

        push.deliver = deliver

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        mailbox, tier, msg_id = self._current
        self.said += len(subject) + len(header) + len(payload) + _OVERHEAD_BYTES
        self.link.send(
            "pushes",
            peer.Pushed(
                sub=self.number,
                subject=subject,
                header=header,
                payload=payload,
                mailbox=mailbox,
                tier=tier,
                msg_id=msg_id,
                offset=self.said,
            ),
        )

    def is_ready(self) -> bool:
        if self.link.is_crowded:
            self.is_held_up = True
            return False
        return self.other_is_ready and self.said - self.taken < PUSH_AHEAD_BYTES

    def said_offset(self) -> int:
        return self.said

    def taken_offset(self) -> int:
        return self.taken


class Subscribers:
    """See the module."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._all: dict[tuple[PeerLink, int], RemoteSubscriber] = {}

    def __len__(self) -> int:
        return len(self._all)

    def on_subs(self, link: PeerLink, subs: Iterable[peer.RemoteSub]) -> None:
        """Clients of a node subscribe and unsubscribe."""
        for wanted in subs:
            if wanted.gone:
                self._leave(link, wanted)
                continue
            partition = self._node.partition(wanted.slot)
            if partition is None:
                link.send("pushes", peer.Pushed(sub=wanted.sub, over=True))
                continue
            subscriber = self._all[link, wanted.sub] = RemoteSubscriber(link, wanted, partition)
            partition.subscribe(subscriber, subscriber.sub)
            push = partition.push_of(subscriber.sub)
            assert push is not None
            subscriber.follow(push, wanted)

    def _leave(self, link: PeerLink, wanted: peer.RemoteSub) -> None:
        subscriber = self._all.get((link, wanted.sub))
        if subscriber is None:
            return
        subscriber.partition.unsubscribe(subscriber.sub)
        if wanted.closed:
            subscriber.taken = max(subscriber.taken, wanted.taken)
            self._end(subscriber, is_sure=True)

    def _end(self, subscriber: RemoteSubscriber, *, is_sure: bool) -> None:
        del self._all[subscriber.link, subscriber.number]
        subscriber.partition.unsubscribe(subscriber.sub)
        subscriber.partition.client_closed(subscriber, is_sure=is_sure)

    def on_credits(self, link: PeerLink, given: Iterable[peer.PushCredit]) -> None:
        """Sockets of subscribers have taken something."""
        for credit in given:
            subscriber = self._all.get((link, credit.sub))
            if subscriber is not None:
                subscriber.taken = max(subscriber.taken, credit.taken)
                subscriber.other_is_ready = credit.ready
                subscriber.partition.pushing.client_writable(subscriber)

    def tick(self) -> None:
        """Now and then: links that were crowded may not be any more."""
        for subscriber in list(self._all.values()):
            if subscriber.is_held_up:
                subscriber.is_held_up = False
                subscriber.partition.pushing.client_writable(subscriber)

    def link_gone(self, link: PeerLink) -> None:
        """A link that a node dialed is over: what is not known to be taken is for others, who learn that it is in doubt."""
        for subscriber in [each for each in self._all.values() if each.link is link]:
            self._end(subscriber, is_sure=False)

    def partition_closing(self, partition: Partition) -> None:
        """Its subscribers are to look for it elsewhere."""
        for subscriber in [each for each in self._all.values() if each.partition is partition]:
            del self._all[subscriber.link, subscriber.number]
            subscriber.link.send("pushes", peer.Pushed(sub=subscriber.number, over=True))
