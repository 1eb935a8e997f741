"""What the clients of each node want to hear, and the core messages that go to other nodes because of it.

A node tells every peer what its own clients subscribe to, over the link it dialed: the whole when the link comes up, then
changes. It never passes on what it was told, and a message that came from a peer goes to local subscribers only, so nothing
travels in a circle. What is told goes out before any message that is sent after it: whoever sees a request of a client also
knows of the reply subject that the client subscribed to before.

State that was told may be missing changes while a link is crowded: they wait here, each subject once, however often it came
and went. Messages do not wait: core NATS delivers at most once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol, cast

from broker_node.loop_hooks import LoopHooks
from broker_node.permissions import COMMAND_PREFIX
from broker_node.router.sublist import Match, Sublist, Subscription
from mq9.v1 import peer_pb2 as wire

if TYPE_CHECKING:
    from google.protobuf.message import Message

FORGOTTEN_PER_TURN: Final = 1000  # 2 ms
CROWDED_POLL_S: Final = 0.02  # only while a crowded link holds something back

Key = tuple[bytes, bytes]  # subject, queue group or nothing


class PeerLink(Protocol):
    """What is needed of `cluster/link.py`."""

    node: str
    is_dialed: bool

    @property
    def is_crowded(self) -> bool: ...

    def send(self, kind: str, message: Message) -> None: ...


class LocalDelivery(Protocol):
    """The router of this node, as a message from a peer sees it."""

    def deliver_here(self, message: wire.CoreMessage) -> None:
        """Hand it to this node's own subscribers."""


class _Elsewhere:
    """The receiver of a subscription that is on another node. The router asks `spread` and never calls it."""

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Not the way there."""


_ELSEWHERE: Final = _Elsewhere()


class RemoteSub(Subscription):
    """What one node wants of one subject: `count` members of a queue group, or, without one, whether anybody listens."""

    __slots__ = ("count", "peer")

    def __init__(self, peer: Peer, subject: bytes, queue: bytes, count: int) -> None:
        super().__init__(_ELSEWHERE, subject, queue, b"")
        self.peer = peer
        self.count = count  # 0: forgotten, and about to leave the tree


class Peer:
    """Another node. It hears from us on the link we dialed, and we from it on the one it dialed."""

    __slots__ = ("heard", "link", "source", "untold")

    def __init__(self) -> None:
        self.link: PeerLink | None = None  # dialed, and up
        self.source: PeerLink | None = None  # accepted: the stream that said what is in `heard`
        self.heard: dict[Key, RemoteSub] = {}
        self.untold: dict[Key, int] = {}  # what has changed here since, with the count that the peer knows


class Interest:
    """Who listens elsewhere. Everything happens on the loop's thread."""

    def __init__(self, core: LocalDelivery, hooks: LoopHooks, random_unit: Callable[[], float] = random.random) -> None:
        """`random_unit` gives numbers in [0, 1): it spreads messages over the nodes that have members of a queue group."""
        self._core = core
        self._hooks = hooks
        self._random = random_unit
        self._local: dict[Key, int] = {}
        self._peers: dict[str, Peer] = {}
        self._heard = Sublist()
        self._forgotten: list[RemoteSub] = []  # still in the tree, where nobody minds them
        self._is_telling = False  # `_tell_changes` is called at the end of the turn
        self._is_waiting = False  # `_tell_again` is called when a link may have become less crowded
        self.match = self._heard.match
        self.messages_in = 0
        self.messages_out = 0
        self.messages_dropped = 0
        self.interests_in = 0
        self.interests_out = 0

    # --- links --------------------------------------------------------------------------------------------------

    def link_up(self, link: PeerLink) -> None:
        """A link that this node dialed is up: its other end gets to know everything."""
        peer = self._peer(link.node)
        peer.link = link
        peer.untold = dict.fromkeys(self._local, 0)
        link.send("interests", wire.Interest(first=True))
        self._tell(peer, link)

    def link_down(self, link: PeerLink) -> None:
        """A link is gone, whoever dialed it. Without the one, nothing can be sent to the peer; without the other, what it
        wants is not known any more."""
        peer = self._peers.get(link.node)
        if peer is None:
            return
        if peer.link is link:
            peer.link = None
            peer.untold = {}
        elif peer.source is link:
            peer.source = None
            self._forget(peer)
        if peer.link is None and peer.source is None:
            del self._peers[link.node]

    def _peer(self, node: str) -> Peer:
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = Peer()
        return peer

    # --- telling ------------------------------------------------------------------------------------------------

    def local_changed(self, subject: bytes, queue: bytes, delta: int) -> None:
        """A client of this node subscribed (1) or is not subscribed any more (-1)."""
        if subject.startswith(COMMAND_PREFIX):  # commands are forwarded, not overheard
            return
        key = (subject, queue)
        before = self._local.get(key, 0)
        now = before + delta
        if now:
            self._local[key] = now
        else:
            del self._local[key]
        if before and now and not queue:  # how many listen matters only where one of them is chosen
            return
        for peer in self._peers.values():
            if peer.link is None:
                continue
            if peer.untold.setdefault(key, before) == now:  # came and went: the peer is right again
                del peer.untold[key]
            elif not self._is_telling:
                self._is_telling = True
                self._hooks.call_soon(self._tell_changes)

    def _tell_changes(self) -> None:
        self._is_telling = False
        self._tell_all()

    def _tell_all(self) -> None:
        for peer in self._peers.values():
            if peer.link is not None and peer.untold:
                self._tell(peer, peer.link)

    def _tell(self, peer: Peer, link: PeerLink) -> bool:
        """Tell a peer what has changed. False when the link is too crowded for all of it: the rest is said later."""
        untold = peer.untold
        while untold:
            if link.is_crowded:
                self._tell_later()
                return False
            (subject, queue), _ = untold.popitem()
            count = self._local.get((subject, queue), 0)
            self.interests_out += 1
            link.send("interests", wire.Interest(subject=subject, queue=queue, count=count if queue else min(count, 1)))
        return True

    def _tell_later(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._hooks.call_later(CROWDED_POLL_S, self._tell_again)

    def _tell_again(self) -> None:
        self._is_waiting = False
        self._tell_all()

    # --- hearing ------------------------------------------------------------------------------------------------

    def on_interests(self, link: PeerLink, interests: Iterable[wire.Interest]) -> None:
        """What a peer's clients want has changed. What an older stream of the peer still says does not count."""
        peer = self._peer(link.node)
        for interest in interests:
            self.interests_in += 1
            if interest.first:
                self._forget(peer)
                peer.source = link
            if peer.source is link and interest.subject:
                self._hear(peer, interest)

    def _hear(self, peer: Peer, interest: wire.Interest) -> None:
        key = (interest.subject, interest.queue)
        known = peer.heard.get(key)
        if known is None:
            if interest.count:
                peer.heard[key] = sub = RemoteSub(peer, *key, interest.count)
                self._heard.add(sub)
        elif interest.count:
            known.count = interest.count
        else:
            del peer.heard[key]
            self._heard.remove(known)

    def _forget(self, peer: Peer) -> None:
        """The peer wants nothing any more. At once for every message; the tree is cleared step by step, for a node may have
        wanted a lot, and when it goes there is much else to do."""
        if not peer.heard:
            return
        if not self._forgotten:
            self._hooks.call_soon(self._clear_some)
        for sub in peer.heard.values():
            sub.count = 0
        self._forgotten += peer.heard.values()
        peer.heard = {}

    def _clear_some(self) -> None:
        for sub in self._forgotten[-FORGOTTEN_PER_TURN:]:
            self._heard.remove(sub)
        del self._forgotten[-FORGOTTEN_PER_TURN:]
        if self._forgotten:
            self._hooks.call_soon(self._clear_some)

    # --- messages -----------------------------------------------------------------------------------------------

    def spread(self, found: Match, served: Iterable[bytes], message: wire.CoreMessage) -> int:
        """Send a message to each node that wants it, once. `found` is what `match` gave, `served` are the queue groups of
        which a member here has it. Returns the number of nodes and queue groups it is for."""
        plain = {sub.peer for sub in cast("tuple[RemoteSub, ...]", found.plain) if sub.count and sub.peer.link is not None}
        queues: dict[Peer, list[bytes]] = {}
        count = len(plain)
        for members in cast("tuple[tuple[RemoteSub, ...], ...]", found.queues):
            queue = members[0].queue
            if queue in served:
                continue
            peer = self._choose(members)
            if peer is not None:
                queues.setdefault(peer, []).append(queue)
                count += 1
        message.plain = True
        for peer in plain:
            if peer not in queues:
                self._send(peer, message)
        for peer, names in queues.items():
            special = wire.CoreMessage(queues=names)
            special.MergeFrom(message)
            special.plain = peer in plain
            self._send(peer, special)
        return count

    def _choose(self, members: tuple[RemoteSub, ...]) -> Peer | None:
        """The node that gets it for the group: by lot, each member in the cluster with the same chance."""
        alive = [sub for sub in members if sub.peer.link is not None and sub.count]
        if not alive:
            return None
        lot = int(self._random() * sum(sub.count for sub in alive))
        for sub in alive:
            lot -= sub.count
            if lot < 0:
                return sub.peer
        raise AssertionError("random_unit gave a number that is not below 1")

    def _send(self, peer: Peer, message: wire.CoreMessage) -> None:
        link = peer.link
        assert link is not None
        # In this order: whoever answers the message must know by then who waits for the answer.
        if (peer.untold and not self._tell(peer, link)) or link.is_crowded:
            self.messages_dropped += 1
        else:
            self.messages_out += 1
            link.send("messages", message)

    def on_messages(self, link: PeerLink, messages: Iterable[wire.CoreMessage]) -> None:
        """Messages for clients of this node. Who they are for was decided where they were published."""
        for message in messages:
            self.messages_in += 1
            self._core.deliver_here(message)

    def stats(self) -> dict[str, int]:
        """For monitoring."""
        return {
            "peers": sum(peer.link is not None for peer in self._peers.values()),
            "remote_subscriptions": sum(len(peer.heard) for peer in self._peers.values()),
            "in_msgs": self.messages_in,
            "out_msgs": self.messages_out,
            "dropped_msgs": self.messages_dropped,
            "in_interests": self.interests_in,
            "out_interests": self.interests_out,
        }
