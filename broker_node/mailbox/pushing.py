"""PUSH: messages of a mailbox to those who subscribed to it, stored ones first, then live ones as they become durable.

A plain subscription is a reader that leaves no trace: it has a place in each tier and gets everything from there on. A queue
group is a consumer group of the same name: each message goes to one member, once for the group. A message is confirmed for
the group, durably, before it is written, so neither a reconnect nor a killed broker hands it out twice; what a socket then
does not take is marked as returned, durably, and is the group's again if the connection goes away.

Nobody is written to faster than their socket takes it: a subscriber that is behind is simply not read for until it is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from broker_node.mailbox.acking import Acking
from broker_node.mailbox.fetching import Fetching
from broker_node.mailbox.group import Delivery, Group, Lease
from broker_node.mailbox.grouping import EARLIEST, Wanted
from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Fetched, Mailbox
from mq9.errors import Mq9Error
from mq9.limits import PUSH_WINDOW_BYTES, PUSH_WINDOW_MESSAGES
from mq9.storage.layout import TIERS

ALL_TIERS: Final = (1 << TIERS) - 1
_NEVER: Final = 1 << 62  # an offset that no socket gets to


class Subscriber(Protocol):
    """The connection behind a subscription, as far as pushing goes. Offsets count the bytes said to it."""

    id: int

    def is_ready(self) -> bool:
        """Its socket took everything so far, and little waits."""

    def said_offset(self) -> int:
        """Bytes said so far."""

    def taken_offset(self) -> int:
        """Of those, the bytes its socket has taken."""


class Push:
    """One subscription to a mailbox. `deliver` says one message to the client."""

    __slots__ = ("address", "after", "claimed_bytes", "client", "closed", "deliver", "group", "mailbox_id", "tiers", "unsure")

    def __init__(
        self, client: Subscriber, address: bytes, tiers: int, group: str, deliver: Callable[[Mailbox, Fetched], None]
    ) -> None:
        self.client = client
        self.address = address
        self.tiers = tiers
        self.group = group
        self.deliver = deliver
        self.closed = False
        self.mailbox_id = 0  # the mailbox that `after` is about: one of the same name may be made anew
        self.after = [0] * TIERS
        self.claimed_bytes = 0  # confirmed for it, to be said when that is durable
        self.unsure: deque[tuple[int, Delivery]] = deque()  # said, not known to be taken: (said_offset after it, delivery)


class _Claim:
    """Messages that are confirmed for a group, to be said to one member when that is durable."""

    __slots__ = ("deliveries", "found", "group", "mailbox", "push", "size_bytes")

    def __init__(self, mailbox: Mailbox, group: Group, push: Push, found: list[Fetched], lease: Lease) -> None:
        self.mailbox = mailbox
        self.group = group
        self.push = push
        self.found = found
        self.deliveries = list(lease.deliveries)
        self.size_bytes = sum(len(item.message.payload) + len(item.message.header) for item in found)


class Pushing:
    """See the module."""

    def __init__(
        self, boxes: Mailboxes, fetching: Fetching, acking: Acking, call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self.boxes = boxes
        self.fetching = fetching
        self.acking = acking
        self.call_soon = call_soon
        self.by_address: dict[bytes, list[Push]] = {}
        self.by_client: dict[int, set[Push]] = {}
        self.turn = 0  # where the next round over the members of a group begins
        self.to_check: list[tuple[Mailbox, Group, Push]] = []
        self.claims: dict[_Claim, None] = {}  # on their way to the disk, oldest first
        self.closed = False
        boxes.on_active = self._mailbox_active
        fetching.push = self.pump

    # --- Coming and going -------------------------------------------------------------------------------------

    def add(self, push: Push) -> None:
        """A client subscribed; a mailbox that is not there yet may come."""
        self.by_address.setdefault(push.address, []).append(push)
        self.by_client.setdefault(push.client.id, set()).add(push)
        mailbox = self.boxes.lookup(push.address)
        if mailbox is not None:
            mailbox.pushed = True
            self.fetching.wake(mailbox)

    def remove(self, push: Push) -> None:
        """It unsubscribed or its connection closed: what it did not take is the group's again."""
        push.closed = True
        self._forget_if_over(push)
        pushes = self.by_address.get(push.address, [])
        if push in pushes:
            pushes.remove(push)
        if not pushes:
            self.by_address.pop(push.address, None)
            mailbox = self.boxes.active.get(push.address)
            if mailbox is not None:
                mailbox.pushed = False

    def _forget_if_over(self, push: Push) -> None:
        """An unsubscribed one is remembered until its socket has taken what was said to it."""
        mine = self.by_client.get(push.client.id)
        if push.closed and not push.unsure and mine is not None:
            mine.discard(push)
            if not mine:
                del self.by_client[push.client.id]

    def client_closed(self, client: Subscriber) -> None:
        """What was said to it and not taken goes to others."""
        for push in list(self.by_client.get(client.id, ())):
            self._give_back(push, client.taken_offset())
            self.remove(push)
        self.by_client.pop(client.id, None)

    def close(self) -> None:
        """The broker stops, with one more commit: what is claimed and not said is written down as returned in that."""
        self.closed = True
        for claim in self.claims:
            if not claim.mailbox.removed:
                self.acking.mark_returned(claim.mailbox, claim.group, claim.deliveries)

    def client_writable(self, client: Subscriber) -> None:
        """Its socket has taken what waited: go on."""
        for push in list(self.by_client.get(client.id, ())):
            mailbox = self.boxes.active.get(push.address)
            if mailbox is None:
                continue
            if push.unsure:
                self._settle_taken(mailbox, push)
            self.fetching.wake(mailbox)

    def _mailbox_active(self, mailbox: Mailbox) -> None:
        """A mailbox was made or loaded: somebody may have been waiting for it."""
        if mailbox.address in self.by_address:
            mailbox.pushed = True
            self.fetching.wake(mailbox)

    # --- Pushing ----------------------------------------------------------------------------------------------

    def pump(self, mailbox: Mailbox) -> None:
        """Say what there is to everyone who is ready for it."""
        if mailbox.removed or self.closed:
            return
        groups: dict[str, list[Push]] = {}
        for push in list(self.by_address.get(mailbox.address, ())):
            if push.group:
                groups.setdefault(push.group, []).append(push)
            elif push.client.is_ready():
                self._pump_plain(mailbox, push)
        for name, members in groups.items():
            self._pump_group(mailbox, name, members)

    def _pump_plain(self, mailbox: Mailbox, push: Push) -> None:
        if push.mailbox_id != mailbox.id:
            push.mailbox_id = mailbox.id
            push.after = [0] * TIERS
        room, budget = PUSH_WINDOW_MESSAGES, PUSH_WINDOW_BYTES
        for tier in range(TIERS):
            if not push.tiers >> tier & 1:
                continue
            for msg_id, _, message, size in self.fetching.walking.tier(mailbox, tier, push.after[tier]):
                push.after[tier] = msg_id
                push.deliver(mailbox, Fetched(tier, msg_id, message, 1))
                room -= 1
                budget -= size
                if push.closed:
                    return
                if room <= 0 or budget <= 0:
                    # Others first. If its socket is full by then, `client_writable` brings it back.
                    self.fetching.wake(mailbox)
                    return

    def _pump_group(self, mailbox: Mailbox, name: str, members: list[Push]) -> None:
        group = self.fetching.grouping.find(mailbox, name)
        if group is None:
            self._pin(mailbox, name, members[0])
            return
        if not group.pinned:
            return
        ready = [push for push in members if push.client.is_ready()]
        # One each at first, so that few messages are spread; then more each, so that many cost few looks.
        share = 1
        while ready and share <= PUSH_WINDOW_MESSAGES:
            self.turn += 1
            first = self.turn % len(ready)
            ready = [push for push in (*ready[first:], *ready[:first]) if self._claim(mailbox, group, push, share)]
            share *= 2
        if ready:
            self.fetching.wake(mailbox)

    def _claim(self, mailbox: Mailbox, group: Group, push: Push, share: int) -> bool:
        """Confirm the next `share` messages for the group, to be said to `push` once that is durable. False: no more, or
        enough for now."""
        budget = PUSH_WINDOW_BYTES - push.claimed_bytes
        if budget <= 0:
            return False  # `_claimed` comes back for more
        wanted = Wanted(
            push.client.id, group.name, share, 0, EARLIEST, 0, False, (), 1000, hold=True, tiers=push.tiers, budget=budget
        )
        found, lease = self.fetching.take(mailbox, group, wanted)
        if not found:
            return False
        claim = _Claim(mailbox, group, push, found, lease)
        self.claims[claim] = None
        push.claimed_bytes += claim.size_bytes
        self.acking.settle(mailbox, group, claim.deliveries)
        mailbox.staged_acks += 1
        mailbox.shelf.commit.then(self._claimed, claim)
        return True

    def _claimed(self, failure: Mq9Error | None, claim: _Claim) -> None:
        mailbox, group, push = claim.mailbox, claim.group, claim.push
        mailbox.staged_acks -= 1
        del self.claims[claim]
        if push.claimed_bytes >= PUSH_WINDOW_BYTES:
            self.fetching.wake(mailbox)  # it was left out for having enough
        push.claimed_bytes -= claim.size_bytes
        if failure is not None or self.closed:
            return  # after a failure the group was reset to what the store has; the next wake finds them again
        for at, (item, delivery) in enumerate(zip(claim.found, claim.deliveries, strict=True)):
            if push.closed:
                self._return(mailbox, group, claim.deliveries[at:])
                break
            # Noted first, as never taken: saying it may end the connection, which then gives it back.
            push.unsure.append((_NEVER, delivery))
            push.deliver(mailbox, item)
            if push.unsure:
                push.unsure[-1] = (push.client.said_offset(), delivery)
        if push.unsure:
            if not self.to_check:
                self.call_soon(self._check_taken)  # after the flush that what was just said has scheduled
            self.to_check.append((mailbox, group, push))

    def _pin(self, mailbox: Mailbox, name: str, push: Push) -> None:
        wanted = Wanted(push.client.id, name, 1, 0, EARLIEST, 0, False, (), 1000, hold=True)
        try:
            group = self.fetching.grouping.pin(mailbox, None, wanted)
        except Mq9Error:
            return  # too many groups: its members get nothing, which `mq9 mailbox info` shows
        mailbox.staged_acks += 1
        mailbox.shelf.commit.then(self._pinned, mailbox, group)

    def _pinned(self, failure: Mq9Error | None, mailbox: Mailbox, group: Group) -> None:
        mailbox.staged_acks -= 1
        if failure is None:
            group.pinned = True
            self.fetching.wake(mailbox)

    # --- What the socket took ---------------------------------------------------------------------------------

    def _check_taken(self) -> None:
        """The flush is over. What a full socket left behind is written down as returned, in case the broker dies."""
        checks, self.to_check = self.to_check, []
        for mailbox, group, push in checks:
            taken = push.client.taken_offset()
            while push.unsure and push.unsure[0][0] <= taken:
                push.unsure.popleft()
            self._forget_if_over(push)
            if push.unsure and not mailbox.removed:
                self.acking.mark_returned(mailbox, group, [delivery for _, delivery in push.unsure])

    def _settle_taken(self, mailbox: Mailbox, push: Push) -> None:
        group = mailbox.groups.get(push.group)
        taken = push.client.taken_offset()
        done: list[Delivery] = []
        while push.unsure and push.unsure[0][0] <= taken:
            done.append(push.unsure.popleft()[1])
        if group is not None:
            self.acking.unmark_returned(mailbox, group, done)
        self._forget_if_over(push)

    def _give_back(self, push: Push, taken: int) -> None:
        done = [delivery for offset, delivery in push.unsure if offset <= taken]
        left = [delivery for offset, delivery in push.unsure if offset > taken]
        push.unsure.clear()
        mailbox = self.boxes.active.get(push.address)
        group = mailbox.groups.get(push.group) if mailbox is not None else None
        if mailbox is not None and group is not None:
            self.acking.unmark_returned(mailbox, group, done)
            if left:
                self._return(mailbox, group, left)

    def _return(self, mailbox: Mailbox, group: Group, deliveries: list[Delivery]) -> None:
        self.acking.mark_returned(mailbox, group, deliveries)
        for delivery in deliveries:
            group.restore(delivery.tier, delivery.msg_id, delivery.count)
        self.fetching.wake(mailbox)
