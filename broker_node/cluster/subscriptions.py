"""Subscriptions of this node's clients to mailboxes (the older dialect), wherever those are served.

Where the slot is served here, a subscription is the partition's. Otherwise it is one with the slot's leader; what comes from
there is said to the client, and what the client's socket has taken is said back. When the slot moves the subscription follows:
a plain one goes on after the newest message of each tier it has had, a member of a queue group joins its group again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Final

from broker_node.cluster.placing import subscribed_address
from broker_node.loop_hooks import Cancellable, LoopHooks
from broker_node.router.client import Client
from broker_node.router.sublist import Subscription
from mq9.limits import FORWARD_RETRY_S
from mq9.storage.layout import TIERS, slot_of
from mq9.v1 import peer_pb2 as peer

if TYPE_CHECKING:
    from broker_node.cluster.forward import PeerLink
    from broker_node.cluster.mailboxes import Node
    from broker_node.partition import Partition

_NEVER: Final = 1 << 62  # an offset that no socket gets to


class _Far:
    """One subscription. It is served by `here`, a partition of this node, at the other end of `link`, or nowhere now."""

    __slots__ = (
        "after",
        "client",
        "here",
        "is_over",
        "link",
        "mailbox",
        "number",
        "pending",
        "said",
        "slot",
        "sub",
        "taken",
        "was_ready",
    )

    def __init__(self, client: Client, sub: Subscription, slot: int) -> None:
        self.client = client
        self.sub = sub
        self.slot = slot
        self.here: Partition | None = None
        self.link: PeerLink | None = None
        self.number = 0  # at the other end of `link`
        self.mailbox = 0  # the mailbox `after` is about
        self.after = [0] * TIERS
        self.pending: deque[tuple[int, int]] = deque()  # said: (the client's offset, that of the other node)
        self.said = 0  # the newest offset of the other node, and the newest that the client's socket has taken
        self.taken = 0
        self.was_ready = True
        self.is_over = False  # unsubscribed; what was said may still be on its way into the socket


class Subscriptions:
    """See the module."""

    def __init__(self, node: Node, hooks: LoopHooks) -> None:
        self._node = node
        self._hooks = hooks
        self._numbers = count(1)
        self._by_sub: dict[Subscription, _Far] = {}
        self._by_number: dict[int, _Far] = {}
        self._by_slot: dict[int, dict[_Far, None]] = {}
        self._by_client: dict[int, dict[_Far, None]] = {}
        self._placeless: dict[_Far, None] = {}
        self._to_credit: dict[_Far, None] = {}
        self._timer: Cancellable | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._by_sub)

    # --- Coming and going -------------------------------------------------------------------------------------

    def add(self, client: Client, sub: Subscription) -> None:
        """A client subscribed."""
        client.dialect = client.dialect or 1
        if sub.queue:
            client.keep_little()
        far = _Far(client, sub, slot_of(subscribed_address(sub.subject), self._node.slots))
        self._by_sub[sub] = far
        self._by_slot.setdefault(far.slot, {})[far] = None
        self._by_client.setdefault(client.id, {})[far] = None
        self._settle(far)

    def remove(self, sub: Subscription) -> None:
        """It unsubscribed, or is closing."""
        far = self._by_sub.pop(sub, None)
        if far is None:
            return
        far.is_over = True
        if far.link is not None and far.pending:
            far.link.send("subs", peer.RemoteSub(sub=far.number, gone=True))  # that its socket took the rest is said later
        else:
            self._forget(far)

    def client_closed(self, client: Client) -> None:
        """A connection is gone: what its socket has not taken is for others."""
        for far in list(self._by_client.get(client.id, ())):
            self._note_taken(far)
            self._by_sub.pop(far.sub, None)
            self._forget(far)

    def _forget(self, far: _Far) -> None:
        if far.link is not None:
            far.link.send("subs", peer.RemoteSub(sub=far.number, gone=True, closed=True, taken=far.taken))
            del self._by_number[far.number]
        elif far.here is not None:
            far.here.unsubscribe(far.sub)
        far.link = far.here = None
        self._placeless.pop(far, None)
        self._to_credit.pop(far, None)
        _drop(self._by_slot, far.slot, far)
        _drop(self._by_client, far.client.id, far)

    # --- Where they are served --------------------------------------------------------------------------------

    def _settle(self, far: _Far) -> None:
        """Subscribe where the slot is served; if nowhere, look again soon."""
        partition = self._node.partition(far.slot)
        if partition is not None:
            far.here = partition
            partition.subscribe(far.client, far.sub)
            push = partition.push_of(far.sub)
            if push is not None and far.mailbox:
                push.mailbox_id, push.after = far.mailbox, list(far.after)
        else:
            self._subscribe_far(far)
        if far.here is None and far.link is None:
            self._settle_later(far)
        else:
            self._placeless.pop(far, None)

    def _settle_later(self, far: _Far) -> None:
        self._placeless[far] = None
        if self._timer is None and not self._closed:
            self._timer = self._hooks.call_later(FORWARD_RETRY_S, self._tick)

    def _subscribe_far(self, far: _Far) -> None:
        node = self._node.leader(far.slot)
        link = self._node.link(node) if node and node != self._node.node else None
        if link is None:
            return
        far.link = link
        far.number = next(self._numbers)
        far.said = far.taken = 0
        far.was_ready = True
        self._by_number[far.number] = far
        client, sub = far.client, far.sub
        wanted = peer.RemoteSub(
            sub=far.number,
            client=client.id,
            slot=far.slot,
            subject=sub.subject,
            queue=sub.queue,
            dialect=client.dialect,
        )
        wanted.client_name = client.name
        if far.mailbox:
            wanted.mailbox = far.mailbox
            wanted.after.extend(far.after)
        link.send("subs", wanted)

    def _tick(self) -> None:
        self._timer = None
        for far in list(self._placeless):
            self._settle(far)

    def _lose(self, far: _Far) -> None:
        """It is not served any more where it was."""
        if far.link is not None:
            del self._by_number[far.number]
        far.link = far.here = None
        far.pending.clear()
        if far.is_over:
            self._forget(far)

    def slot_opened(self, slot: int) -> None:
        """The slot is served here now."""
        for far in list(self._by_slot.get(slot, ())):
            if far.link is not None:
                self._lose(far)
            if not far.is_over:
                self._settle(far)

    def partition_closing(self, slot: int, partition: Partition) -> None:
        """The slot is served here no more: remember how far everybody was told."""
        for far in list(self._by_slot.get(slot, ())):
            if far.here is partition:
                push = partition.push_of(far.sub)
                if push is not None and not far.sub.queue:
                    far.mailbox, far.after = push.mailbox_id, list(push.after)
                self._lose(far)
                self._settle(far)

    def view_changed(self, slot: int) -> None:
        """The slot may have another leader."""
        node = self._node.leader(slot)
        for far in list(self._by_slot.get(slot, ())):
            if far.link is not None and far.link is not self._node.link(node):
                self._lose(far)
            if far.here is None and far.link is None and not far.is_over:
                self._settle(far)

    def link_up(self, link: PeerLink) -> None:
        """A link we dialed."""
        for far in list(self._placeless):
            if self._node.leader(far.slot) == link.node:
                self._settle(far)

    def link_down(self, link: PeerLink) -> None:
        """A link we dialed."""
        for far in [far for far in self._by_number.values() if far.link is link]:
            self._lose(far)
            if not far.is_over:
                self._settle(far)

    # --- Messages ---------------------------------------------------------------------------------------------

    def on_pushes(self, link: PeerLink, pushes: Iterable[peer.Pushed]) -> None:
        """Messages for subscriptions at the other end of a link we dialed."""
        for pushed in pushes:
            far = self._by_number.get(pushed.sub)
            if far is None or far.link is not link:
                continue  # it has moved on, and goes on there after what it has had
            if pushed.over:
                self._lose(far)
                if not far.is_over:
                    self._settle_later(far)
                continue
            self._hear(far, pushed)

    def _hear(self, far: _Far, pushed: peer.Pushed) -> None:
        if far.mailbox != pushed.mailbox:
            far.mailbox, far.after = pushed.mailbox, [0] * TIERS
        far.after[pushed.tier] = pushed.msg_id
        far.said = pushed.offset
        if far.is_over:
            return  # it is not said: the other end is told that it was not taken
        # Noted first, as never taken: saying it may end the subscription or the connection.
        far.pending.append((_NEVER, pushed.offset))
        far.client.receive(far.sub, pushed.subject, b"", pushed.header, pushed.payload)
        if far.pending:
            far.pending[-1] = (far.client.said_offset(), pushed.offset)
        if not self._to_credit:
            self._hooks.call_soon(self._credit_all)  # after the flush that what was just said has scheduled
        self._to_credit[far] = None

    def _credit_all(self) -> None:
        heard, self._to_credit = self._to_credit, {}
        for far in heard:
            self._credit(far)

    def _note_taken(self, far: _Far) -> None:
        taken = far.client.taken_offset()
        while far.pending and far.pending[0][0] <= taken:
            far.taken = far.pending.popleft()[1]

    def _credit(self, far: _Far) -> None:
        """Say what the socket took, if that is new."""
        if far.link is None:
            return
        before = far.taken
        self._note_taken(far)
        if far.is_over:
            if not far.pending:
                self._forget(far)
            return
        is_ready = far.client.is_ready()
        if far.taken != before or is_ready != far.was_ready:
            far.was_ready = is_ready
            credit = peer.PushCredit(sub=far.number, said=far.said, taken=far.taken, ready=is_ready)
            far.link.send("credits", credit)

    def client_writable(self, client: Client) -> None:
        """The socket of a client has taken what waited."""
        for far in list(self._by_client.get(client.id, ())):
            self._credit(far)

    def holds_untaken(self, client: Client) -> bool:
        """Whether it was told messages of queue groups that its socket has not taken."""
        taken = client.taken_offset()
        mine = self._by_client.get(client.id, ())
        return any(far.sub.queue and far.pending and far.pending[-1][0] > taken for far in mine)

    def close(self) -> None:
        """The broker stops."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()


def _drop(index: dict[int, dict[_Far, None]], key: int, far: _Far) -> None:
    """Take `far` out of an index."""
    entries = index.get(key)
    if entries is not None:
        entries.pop(far, None)
        if not entries:
            del index[key]
