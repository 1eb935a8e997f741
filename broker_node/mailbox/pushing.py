"""PUSH: messages of a mailbox to those who subscribed to it, stored ones first, then live ones as they become durable.

A plain subscription is a reader that leaves no trace: it has a place in each tier and gets everything from there on. A queue
group is a consumer group of the same name: each message goes to one member, once for the group. There is no acknowledgement,
so two things are written down in its place: that messages are claimed, before they are written to a member's socket, and
that they are confirmed, when the socket has taken them. What a connection that goes away had not taken is the group's again;
what was claimed and not confirmed when the broker died may have been handed out, and is offered again saying so.

Nobody is written to faster than their socket takes it: a subscriber that is behind is simply not read for until it is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from broker_node.mailbox.acking import Acking
from broker_node.mailbox.fetching import Fetching
from broker_node.mailbox.group import Delivery, Group, ranges_of
from broker_node.mailbox.grouping import EARLIEST, Wanted
from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Fetched, Mailbox
from mq9.errors import Mq9Error
from mq9.limits import PUSH_RETRY_S, PUSH_WINDOW_BYTES, PUSH_WINDOW_MESSAGES
from mq9.storage.layout import TIERS
from mq9.storage.receipts import Receipts

ALL_TIERS: Final = (1 << TIERS) - 1
_NEVER: Final = 1 << 62  # an offset that no socket gets to


class Subscriber(Protocol):
    """The connection behind a subscription, as far as pushing goes. Offsets count the bytes said to it."""

    id: int

    def is_ready(self) -> bool:
        """Its socket took everything so far, and little waits."""

    def flush(self) -> None:
        """Write what was said to it, as far as its socket takes it."""

    def said_offset(self) -> int:
        """Bytes said so far."""

    def taken_offset(self) -> int:
        """Of those, the bytes its socket has taken."""


class Push:
    """One subscription to a mailbox. `deliver` says one message to the client."""

    __slots__ = (
        "address",
        "after",
        "claimed_bytes",
        "client",
        "closed",
        "deliver",
        "group",
        "mailbox_id",
        "tiers",
        "turn",
        "unsure",
        "waiting",
    )

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
        self.turn = 0  # when something was last claimed for it; counted by Pushing
        self.claimed_bytes = 0  # claimed for it and not said
        self.waiting: deque[tuple[_Claims, list[_Claim]]] = deque()  # durably claimed, to be said when its socket is free
        self.unsure: deque[tuple[int, Delivery]] = deque()  # said, not known to be taken: (said_offset after it, delivery)


class _Claim:
    """Messages that a group has claimed, to be said to one member when that is durable."""

    __slots__ = ("deliveries", "found", "push", "size_bytes")

    def __init__(self, push: Push, found: list[Fetched], deliveries: list[Delivery]) -> None:
        self.push = push
        self.found = found
        self.deliveries = deliveries
        self.size_bytes = sum(len(item.message.payload) + len(item.message.header) for item in found)


class _Claims:
    """What one look at a mailbox has claimed for the members of one group."""

    __slots__ = ("claims", "group", "mailbox")

    def __init__(self, mailbox: Mailbox, group: Group) -> None:
        self.mailbox = mailbox
        self.group = group
        self.claims: list[_Claim] = []


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
        self.turn = 0  # counts what is claimed
        self.staged: dict[_Claims, None] = {}  # on their way to the disk, oldest first
        self.closed = False
        self.is_over = False  # nothing can be written down any more
        self.receipts = Receipts(boxes.durable.store, boxes.durable.slot)
        self._recover()
        boxes.on_active = self._mailbox_active
        fetching.push = self.pump

    def _recover(self) -> None:
        """What an earlier process noted as taken is confirmed, from the first look at it on."""
        shelf = self.boxes.durable
        receipts = self.receipts.read()
        if receipts:
            self.receipts.opened()
            self.fetching.grouping.recover(shelf, receipts)
            shelf.commit.then(self._recovered)

    def _recovered(self, failure: Mq9Error | None) -> None:
        if failure is None:
            self.fetching.grouping.taken.clear()
            self.receipts.confirmed()

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
        """It unsubscribed or its connection closed: what was not said to it is the group's again."""
        push.closed = True
        self._return_waiting(push)
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

    def client_closed(self, client: Subscriber, *, is_sure: bool = True) -> None:
        """What was said to it and not taken goes to others. Not `is_sure`: it may have been taken, and they are told that."""
        for push in list(self.by_client.get(client.id, ())):
            self._settle_taken(push)
            left = [delivery for _, delivery in push.unsure]
            push.unsure.clear()
            mailbox = self.boxes.active.get(push.address)
            group = mailbox.groups.get(push.group) if mailbox is not None else None
            if mailbox is not None and group is not None:
                self._return(mailbox, group, left, is_sure=is_sure)
            self.remove(push)
        self.by_client.pop(client.id, None)

    def rest(self) -> None:
        """The broker is about to stop: say nothing more, and give back what is claimed and not said. What was said may still
        be taken, and is confirmed then."""
        self.closed = True
        for claims in self.staged:
            for claim in claims.claims:
                self._return(claims.mailbox, claims.group, claim.deliveries)
        for pushes in list(self.by_client.values()):
            for push in list(pushes):
                self._return_waiting(push)

    def is_waiting(self) -> bool:
        """Whether something was said to members of groups that is not known to be taken."""
        return any(push.unsure for pushes in self.by_client.values() for push in pushes)

    def close(self) -> None:
        """The broker stops, with one more commit: what is claimed and not said, or taken and not confirmed, is written down
        in that. What waits in a socket stays claimed: it may still be taken, unless its connection was cut before."""
        self.rest()
        for pushes in list(self.by_client.values()):
            for push in list(pushes):
                self._settle_taken(push)
        self.receipts.close()
        self.is_over = True

    def holds_untaken(self, client: Subscriber) -> bool:
        """Whether messages were said to it that its socket has not taken: they are the group's again if it closes."""
        taken = client.taken_offset()
        return any(push.unsure and push.unsure[-1][0] > taken for push in self.by_client.get(client.id, ()))

    def client_writable(self, client: Subscriber) -> None:
        """Its socket has taken what waited: go on."""
        for push in list(self.by_client.get(client.id, ())):
            if push.unsure:
                self._settle_taken(push)
            self._say_waiting(push)
            mailbox = self.boxes.active.get(push.address)
            if mailbox is not None:
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
        # Who has had nothing for longest is first.
        ready = sorted((push for push in members if push.client.is_ready()), key=_turn)
        claims = _Claims(mailbox, group)
        # One each at first, so that few messages are spread; then more each, so that many cost few looks.
        share = 1
        try:
            while ready and share <= PUSH_WINDOW_MESSAGES:
                ready = [push for push in ready if self._claim(claims, push, share)]
                share *= 2
        finally:  # also when damaged data has ended the looking
            if claims.claims:
                self._stage(claims)
        if ready:
            self.fetching.wake(mailbox)

    def _claim(self, claims: _Claims, push: Push, share: int) -> bool:
        """Claim the group's next `share` messages, to be said to `push` once that is durable. False: no more, or enough for
        now."""
        budget = PUSH_WINDOW_BYTES - push.claimed_bytes
        if budget <= 0:
            return False  # `_claimed` comes back for more
        group = claims.group
        wanted = Wanted(
            push.client.id, group.name, share, 0, EARLIEST, 0, False, (), 1000, hold=True, tiers=push.tiers, budget=budget
        )
        found, lease = self.fetching.take(claims.mailbox, group, wanted)
        if not found:
            return False
        group.claim(lease.deliveries)
        claim = _Claim(push, found, lease.deliveries)
        claims.claims.append(claim)
        push.claimed_bytes += claim.size_bytes
        self.turn += 1
        push.turn = self.turn
        return True

    def _stage(self, claims: _Claims) -> None:
        mailbox = claims.mailbox
        self.staged[claims] = None
        self.fetching.grouping.put(mailbox, claims.group)
        mailbox.staged_acks += 1
        mailbox.shelf.commit.then(self._claimed, claims)

    def _claimed(self, failure: Mq9Error | None, claims: _Claims) -> None:
        mailbox, group = claims.mailbox, claims.group
        mailbox.staged_acks -= 1
        del self.staged[claims]
        by_push: dict[Push, list[_Claim]] = {}
        for claim in claims.claims:
            by_push.setdefault(claim.push, []).append(claim)
        if failure is not None or self.closed:
            for push, mine in by_push.items():
                self._not_ahead(mailbox, push, mine)
            self._look_later(mailbox)
            return  # after a failure the group was reset to what the store has: they are found again
        taken: list[Delivery] = []
        for push, mine in by_push.items():
            if push.waiting or not (push.closed or push.client.is_ready()):
                push.waiting.append((claims, mine))
                self._say_waiting(push)
            else:
                taken += self._say_look(claims, push, mine)
        self._confirm(mailbox, group, taken)

    def _say_waiting(self, push: Push) -> None:
        """Say what was claimed for it while its socket was full, one look after the other. All at once, a kill between that
        write and its note would repeat them all."""
        while push.waiting and push.client.is_ready() and not self.closed:
            claims, mine = push.waiting.popleft()
            self._confirm(claims.mailbox, claims.group, self._say_look(claims, push, mine))

    def _return_waiting(self, push: Push) -> None:
        """It is not to have what was claimed for it and not said."""
        while push.waiting:
            claims, mine = push.waiting.popleft()
            for claim in mine:
                self._return(claims.mailbox, claims.group, claim.deliveries)

    def _say_look(self, claims: _Claims, push: Push, mine: list[_Claim]) -> list[Delivery]:
        """Say what one look claimed for it; what its socket has taken at once, noted and to be confirmed."""
        mailbox, group = claims.mailbox, claims.group
        self._not_ahead(mailbox, push, mine)
        if mailbox.removed or mailbox.groups.get(group.name) is not group:
            return []  # gone, or reset while this waited: then it offers these again
        for claim in mine:
            self._say(claims, claim)
        return self._flush(mailbox, group, push)

    def _not_ahead(self, mailbox: Mailbox, push: Push, claims: list[_Claim]) -> None:
        """What was claimed for it is said, or will not be: there is room for more."""
        if push.claimed_bytes >= PUSH_WINDOW_BYTES:
            self.fetching.wake(mailbox)  # it was left out for having enough
        push.claimed_bytes -= sum(claim.size_bytes for claim in claims)

    def _flush(self, mailbox: Mailbox, group: Group, push: Push) -> list[Delivery]:
        """Write what was said, and note at once what its socket has taken of it: a kill in between hands that out again. So
        all of the note is made before."""
        if not push.unsure or mailbox.shelf is not self.boxes.durable:
            push.client.flush()
            return self._note_taken(mailbox, group, push)
        client = push.client
        said = group.still_claimed([delivery for _, delivery in push.unsure])
        said.sort(key=_place_in_tier)
        note = self.receipts.prepare(mailbox.id, group.group_id, ranges_of(said))
        end = push.unsure[-1][0]
        client.flush()
        if client.taken_offset() < end or not push.unsure:
            return self._note_taken(mailbox, group, push)
        self.receipts.note(note)
        push.unsure.clear()
        self._forget_if_over(push)
        return said

    def _say(self, claims: _Claims, claim: _Claim) -> None:
        mailbox, group, push = claims.mailbox, claims.group, claim.push
        for at, (item, delivery) in enumerate(zip(claim.found, claim.deliveries, strict=True)):
            if push.closed:
                self._return(mailbox, group, claim.deliveries[at:])
                break
            if not group.still_claimed((delivery,)):
                continue  # deleted since
            # Noted first, as never taken: saying it may end the connection, which then gives it back.
            push.unsure.append((_NEVER, delivery))
            push.deliver(mailbox, item)
            if push.unsure:
                push.unsure[-1] = (push.client.said_offset(), delivery)

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
        else:
            self._look_later(mailbox)

    def _look_later(self, mailbox: Mailbox) -> None:
        """The disk refused: not at once again, which would be for ever while it is full."""
        if not self.closed:
            self.boxes.timers.at(self.boxes.clock.monotonic_s() + PUSH_RETRY_S, self.fetching.wake, mailbox)

    # --- What the socket took ---------------------------------------------------------------------------------

    def _settle_taken(self, push: Push) -> None:
        """Confirm what its socket has taken."""
        mailbox = self.boxes.active.get(push.address)
        group = mailbox.groups.get(push.group) if mailbox is not None else None
        if mailbox is not None and group is not None and not self.is_over:
            self._confirm(mailbox, group, self._note_taken(mailbox, group, push))

    def _note_taken(self, mailbox: Mailbox, group: Group, push: Push) -> list[Delivery]:
        """Take what its socket has taken out of `unsure`, and note it; the caller confirms it."""
        unsure = push.unsure
        offset = push.client.taken_offset()
        found: list[Delivery] = []
        while unsure and unsure[0][0] <= offset:
            found.append(unsure.popleft()[1])
        self._forget_if_over(push)
        taken = group.still_claimed(found)
        if taken and mailbox.shelf is self.boxes.durable:
            taken.sort(key=_place_in_tier)
            self.receipts.note(self.receipts.prepare(mailbox.id, group.group_id, ranges_of(taken)))
        return taken

    def _confirm(self, mailbox: Mailbox, group: Group, taken: list[Delivery]) -> None:
        if taken and not mailbox.removed and mailbox.groups.get(group.name) is group:
            taken.sort(key=_place_in_tier)  # at best one range for all members
            self.acking.settle(mailbox, group, taken)
            self._write(mailbox)

    def _return(self, mailbox: Mailbox, group: Group, deliveries: list[Delivery], *, is_sure: bool = True) -> None:
        """Claimed and not taken: others may have them. That is written down, so that it is not in doubt later, or is."""
        claimed = group.still_claimed(deliveries)
        if claimed and not self.is_over and not mailbox.removed and mailbox.groups.get(group.name) is group:
            if is_sure:
                group.unclaim(claimed)
            else:
                group.doubt(claimed)
            self.fetching.grouping.put(mailbox, group)
            self._write(mailbox)
            self.fetching.wake(mailbox)

    def _write(self, mailbox: Mailbox) -> None:
        """Have what was put be committed, though nobody waits for it."""
        mailbox.staged_acks += 1
        self.receipts.opened()
        mailbox.shelf.commit.then(self._written, mailbox)

    def _written(self, failure: Mq9Error | None, mailbox: Mailbox) -> None:
        """If the commit failed, what memory holds was reset to what the store has."""
        mailbox.staged_acks -= 1
        self.receipts.confirmed()


def _turn(push: Push) -> int:
    return push.turn


def _place_in_tier(delivery: Delivery) -> tuple[int, int]:
    return delivery.tier, delivery.msg_id
