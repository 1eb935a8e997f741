"""One consumer group of one mailbox: what it has been given, what it has confirmed, what comes next.

Pure bookkeeping over ids: no store, no clock, no IO. Messages of a tier are handed out in id order, so everything up to
`TierCursor.next_after` has been handed out; of that, what is not confirmed is a `Delivery` in `order`. The floor of a tier
is where its first unconfirmed delivery begins: everything at or below it is confirmed or gone.

What must survive a restart is small: the floors, the confirmed ranges above them, and how far messages were claimed to be
pushed. A range is (low, high]: it covers every message of the tier with low < id <= high. Leases and delivery counts are
memory; after a restart whatever is not confirmed is handed out again, and what was claimed counts as handed out once.

Rule: a message is confirmed only if it was delivered to this group, and a floor never moves backwards.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from broker_node.mailbox.timers import Timer
from mq9.storage.layout import TIERS

READY: Final = 0  # may be handed out (again)
LEASED: Final = 1  # held by a connection until its lease ends
DELAYED: Final = 2  # returned with a delay that has not run out
SETTLED: Final = 3  # confirmed, or no longer there
CLAIMED: Final = 4  # pushed to a subscriber, or about to be: confirmed as soon as its socket has taken it

_ORDER_SLACK: Final = 1024  # settled deliveries behind an unsettled one that are not worth a tidying


class Delivery:
    """One message handed out and not confirmed. `low` is the id handed out before it in its tier: (low, msg_id] is the
    range its confirmation covers. `count` is how often it was handed out; 0 for one that a tag filter passed over."""

    __slots__ = ("count", "index", "lease", "low", "msg_id", "state", "tier")

    def __init__(self, tier: int, low: int, msg_id: int) -> None:
        self.tier = tier
        self.low = low
        self.msg_id = msg_id
        self.count = 0
        self.state = READY
        self.lease: Lease | None = None  # the latest FETCH reply that carried it, also after that lease ended
        self.index = 0  # its place in that reply


def ranges_of(deliveries: Iterable[Delivery]) -> list[tuple[int, int, int]]:
    """(tier, low, high) of what confirming them covers; those that follow each other come together."""
    ranges: list[tuple[int, int, int]] = []
    for delivery in deliveries:
        if ranges and ranges[-1][2] == delivery.low and ranges[-1][0] == delivery.tier:
            ranges[-1] = (delivery.tier, ranges[-1][1], delivery.msg_id)
        else:
            ranges.append((delivery.tier, delivery.low, delivery.msg_id))
    return ranges


class Lease:
    """What one FETCH reply handed to one connection, in delivery order."""

    __slots__ = ("deliveries", "held", "owner", "timer")

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.deliveries: list[Delivery] = []
        self.held = 0  # deliveries still leased under it
        self.timer: Timer | None = None


class TierCursor:
    """A group's place in one tier."""

    __slots__ = ("claimed_to", "doubt", "ends", "floor", "next_after", "order", "ranges", "ready", "row_lows", "skip")

    def __init__(self, floor: int, doubt: int = 0) -> None:
        self.floor = floor
        self.next_after = floor
        self.order: deque[Delivery] = deque()  # by msg_id; settled ones leave when they reach the front
        self.ready: list[tuple[int, Delivery]] = []  # heap by msg_id; entries whose state moved on are dropped when met
        self.doubt = doubt  # up to here what is not confirmed may have been pushed: before the group was loaded, or see `doubt`
        self.claimed_to = 0  # up to here messages are, or were, claimed since; 0 when none is
        self.ranges: dict[int, int] = {}  # stored ACKED rows: low -> high
        self.ends: dict[int, int] = {}  # the same the other way round
        self.row_lows: list[int] = []  # heap of the keys of `ranges`
        self.skip: deque[tuple[int, int]] = deque()  # ranges found at load, not yet walked over

    def load_ranges(self, rows: Iterable[tuple[int, int]]) -> None:
        """Take the stored ranges, in order of their lows."""
        self.ranges = dict(rows)
        self.ends = {high: low for low, high in self.ranges.items()}
        self.row_lows = list(self.ranges)
        self.skip = deque(self.ranges.items())

    def already_confirmed(self, msg_id: int) -> int:
        """The end of the stored range that `msg_id` lies in, or 0. Ids must be asked in rising order."""
        while self.skip and self.skip[0][1] < msg_id:
            self.skip.popleft()
        if self.skip and self.skip[0][0] < msg_id:
            return self.skip[0][1]
        return 0

    def raise_floor(self) -> None:
        """Move the floor to where the first unconfirmed delivery begins."""
        order = self.order
        while order and order[0].state == SETTLED:
            order.popleft()
        self.floor = max(self.floor, order[0].low if order else self.next_after)


@dataclass(slots=True)
class Confirmed:
    """What a confirmation changed, as rows for the store: per tier, ranges to put and to delete."""

    put: list[tuple[int, int, int]] = field(default_factory=list)  # tier, low, high
    delete: list[tuple[int, int]] = field(default_factory=list)  # tier, low
    changed: bool = False


class Group:
    """See the module. `group_id` names its rows in the store."""

    __slots__ = ("by_id", "claimed", "group_id", "leases", "name", "pinned", "tiers")

    def __init__(self, name: str, group_id: int, floors: tuple[int, ...], doubts: tuple[int, ...] = ()) -> None:
        self.name = name
        self.group_id = group_id
        self.tiers = [TierCursor(floor, doubt) for floor, doubt in zip_longest(floors, doubts, fillvalue=0)]
        self.by_id: dict[int, Delivery] = {}
        self.leases: dict[int, dict[Lease, None]] = {}  # by owner, oldest first; only those that hold something
        self.claimed = 0  # deliveries that are CLAIMED
        self.pinned = False  # its start is on disk

    # --- Handing out ------------------------------------------------------------------------------------------

    def passed(self, tier: int, msg_id: int) -> Delivery:
        """The walk of a tier reached `msg_id`: it is now one of the group's unconfirmed messages, ready."""
        cursor = self.tiers[tier]
        delivery = Delivery(tier, cursor.next_after, msg_id)
        delivery.count = int(msg_id <= cursor.doubt)
        cursor.next_after = msg_id
        cursor.order.append(delivery)
        self.by_id[msg_id] = delivery
        return delivery

    def leased(self, lease: Lease, delivery: Delivery) -> None:
        """`delivery` goes out as the next message of `lease`."""
        delivery.state = LEASED
        delivery.count += 1
        delivery.lease = lease
        delivery.index = len(lease.deliveries)
        lease.deliveries.append(delivery)
        lease.held += 1

    def claim(self, deliveries: list[Delivery]) -> None:
        """What was just leased is to be pushed: no lease ends it, but `settle`, `unclaim` or `doubt`."""
        for delivery in deliveries:
            delivery.state = CLAIMED
            cursor = self.tiers[delivery.tier]
            cursor.claimed_to = max(cursor.claimed_to, delivery.msg_id)
        self.claimed += len(deliveries)

    def still_claimed(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Those of `deliveries` that are claimed in this group: not deleted meanwhile, nor of an earlier group of its name."""
        return [each for each in deliveries if each.state == CLAIMED and self.by_id.get(each.msg_id) is each]

    def unclaim(self, deliveries: list[Delivery]) -> None:
        """What was claimed has reached nobody: it is offered again, as if it had not been."""
        for delivery in deliveries:
            self._let_go(delivery)
            delivery.count -= 1
            self.make_ready(delivery)

    def doubt(self, deliveries: list[Delivery]) -> None:
        """Nobody knows whether what was claimed has reached somebody: it is offered again, saying so, also after a restart."""
        for delivery in deliveries:
            cursor = self.tiers[delivery.tier]
            cursor.doubt = max(cursor.doubt, delivery.msg_id)
            self._let_go(delivery)
            self.make_ready(delivery)

    def begin(self, lease: Lease) -> None:
        """Remember a lease that holds something."""
        self.leases.setdefault(lease.owner, {})[lease] = None

    def pop_ready(self, tier: int) -> Delivery | None:
        """The ready message of a tier with the lowest id, if there is one. The caller leases, settles or returns it."""
        ready = self.tiers[tier].ready
        while ready:
            delivery = heapq.heappop(ready)[1]
            if delivery.state == READY:
                return delivery
        return None

    def make_ready(self, delivery: Delivery) -> None:
        """Offer `delivery` (again)."""
        delivery.state = READY
        heapq.heappush(self.tiers[delivery.tier].ready, (delivery.msg_id, delivery))

    def end_lease(self, lease: Lease) -> int:
        """The lease ran out or its connection closed: what it still holds is ready again. How many that were."""
        returned = 0
        for delivery in lease.deliveries:
            if delivery.state == LEASED and delivery.lease is lease:
                self.make_ready(delivery)
                returned += 1
        lease.held = 0
        self._forget(lease)
        return returned

    def _forget(self, lease: Lease) -> None:
        """Nothing is held under `lease` any more. Its deliveries stay known to each other until they are confirmed."""
        if lease.timer is not None:
            lease.timer.cancel()
            lease.timer = None
        held = self.leases.get(lease.owner)
        if held is not None:
            held.pop(lease, None)
            if not held:
                del self.leases[lease.owner]

    def give_back(self, delivery: Delivery, state: int) -> None:
        """A negative acknowledgement: `delivery` leaves its lease, to be READY now or DELAYED."""
        self._let_go(delivery)
        if state == READY:
            self.make_ready(delivery)
        else:
            delivery.state = state

    def _let_go(self, delivery: Delivery) -> None:
        """Nobody holds it any more."""
        if delivery.state == CLAIMED:
            self.claimed -= 1
            if not self.claimed:
                for cursor in self.tiers:
                    cursor.claimed_to = 0
            return
        lease = delivery.lease
        if delivery.state == LEASED and lease is not None:
            lease.held -= 1
            if not lease.held:
                self._forget(lease)

    def end_leases_of(self, owner: int) -> int:
        """End every lease of a connection. How many messages became ready."""
        return sum(self.end_lease(lease) for lease in list(self.leases.get(owner, ())))

    def end_all_leases(self) -> None:
        """The group is given up: nothing is held any more."""
        for owner in list(self.leases):
            self.end_leases_of(owner)

    # --- Confirming -------------------------------------------------------------------------------------------

    def cumulative(self, msg_id: int) -> list[Delivery]:
        """The unconfirmed deliveries that a cumulative ACK of `msg_id` confirms: it and what came before it in the
        latest FETCH reply that carried it. None when it was never delivered or is already confirmed."""
        delivery = self.by_id.get(msg_id)
        if delivery is None or delivery.lease is None or delivery.state == CLAIMED:
            return []
        lease = delivery.lease
        return [each for each in lease.deliveries[: delivery.index + 1] if each.state != SETTLED and each.lease is lease]

    def unreached(self, msg_id: int) -> list[int]:
        """The tiers in which a message of that id would be unconfirmed, and was not handed out since the group was loaded."""
        return [
            tier
            for tier, cursor in enumerate(self.tiers)
            if cursor.next_after < msg_id and not any(low < msg_id <= high for low, high in cursor.ranges.items())
        ]

    def singles(self, msg_ids: Iterable[int]) -> list[Delivery]:
        """The unconfirmed deliveries among `msg_ids`."""
        found = (self.by_id.get(msg_id) for msg_id in dict.fromkeys(msg_ids))
        return [each for each in found if each is not None and each.count > 0 and each.state != CLAIMED]

    def settle(self, deliveries: list[Delivery]) -> Confirmed:
        """Confirm `deliveries` and say which rows that changes. Rows are only needed above the floor."""
        result = Confirmed(changed=bool(deliveries))
        touched = 0
        for delivery in deliveries:
            self._let_go(delivery)
            delivery.state = SETTLED
            self.by_id.pop(delivery.msg_id, None)
            touched |= 1 << delivery.tier
        for tier in range(TIERS):
            if touched & 1 << tier:
                self._advance(tier, result)
        for tier, low, high in ranges_of(deliveries):
            cursor = self.tiers[tier]
            if high > cursor.floor:
                result.put.append((tier, self._join(cursor, low, high), high))
        return result

    @staticmethod
    def _join(cursor: TierCursor, low: int, high: int) -> int:
        """Note a confirmed range, as part of the one that ends where it begins if there is one; where that begins."""
        joined = cursor.ends.pop(low, None)
        if joined is None or cursor.ranges.get(joined) != low:
            joined = low
            heapq.heappush(cursor.row_lows, low)
        cursor.ranges[joined] = high
        cursor.ends[high] = joined
        return joined

    def vanish(self, msg_id: int) -> Confirmed:
        """`msg_id` was deleted, replaced or found expired: there is nothing left to confirm."""
        delivery = self.by_id.get(msg_id)
        if delivery is None:
            return Confirmed()
        self._let_go(delivery)
        delivery.state = SETTLED
        del self.by_id[msg_id]
        result = Confirmed()
        self._advance(delivery.tier, result)
        return result

    def _advance(self, tier: int, result: Confirmed) -> None:
        cursor = self.tiers[tier]
        before = cursor.floor
        cursor.raise_floor()
        if len(cursor.order) > _ORDER_SLACK + 4 * len(self.by_id):
            cursor.order = deque(each for each in cursor.order if each.state != SETTLED)
        if cursor.floor == before:
            return
        result.changed = True
        while cursor.row_lows and cursor.row_lows[0] < cursor.floor:
            low = cursor.row_lows[0]
            if cursor.ranges.get(low, 0) > cursor.floor:
                break  # it reaches beyond the floor, so it is still needed; a later floor removes it
            heapq.heappop(cursor.row_lows)
            high = cursor.ranges.pop(low, None)
            if high is not None:
                cursor.ends.pop(high, None)
                result.delete.append((tier, low))

    # --- Looking ----------------------------------------------------------------------------------------------

    @property
    def floors(self) -> tuple[int, ...]:
        """What is durable of the cursors, by tier."""
        return tuple(cursor.floor for cursor in self.tiers)

    @property
    def claims(self) -> tuple[int, ...]:
        """What a restart must know of claims, by tier: up to here messages may have been pushed that are not confirmed."""
        reach = [max(cursor.claimed_to, cursor.doubt) for cursor in self.tiers]
        return tuple(high if high > cursor.floor else 0 for high, cursor in zip(reach, self.tiers, strict=True))

    @property
    def unconfirmed(self) -> int:
        """Messages handed out or passed over, and not confirmed."""
        return len(self.by_id)
