"""FETCH: what a group or a passer-by gets next, the lease on it, and the wait when there is nothing yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker_node.mailbox.deleting import put_floors
from broker_node.mailbox.group import Delivery, Group, Lease
from broker_node.mailbox.grouping import Grouping, Wanted
from broker_node.mailbox.mailboxes import Mailboxes, ignore
from broker_node.mailbox.model import Fetched, Mailbox, Owner
from broker_node.mailbox.timers import Timer
from broker_node.mailbox.walking import has_tags
from mq9.errors import Mq9Error, StorageError, error
from mq9.limits import UNACKED_PER_GROUP_MAX, WAITERS_MAX, WAITERS_PER_MAILBOX_MAX
from mq9.storage.interface import Table
from mq9.storage.layout import TIERS, tier_range

Answer = Callable[[Mq9Error | None, list[Fetched]], None]

_PLACES_MAX: Final = 1024  # (mailbox, group) pairs remembered for one connection before those without a lease are dropped
_LOOK_MAX: Final = 10_000  # rows looked at for one FETCH before it lets others have their turn


class Waiter:
    """A FETCH that found nothing and waits. `after_id` is where a stateless one reads on."""

    __slots__ = ("after_id", "answer", "mailbox", "timer", "wanted")

    def __init__(self, mailbox: Mailbox, wanted: Wanted, after_id: int, answer: Answer) -> None:
        self.mailbox = mailbox
        self.wanted = wanted
        self.after_id = after_id
        self.answer: Answer | None = answer  # None once answered or given up
        self.timer: Timer | None = None


class Fetching:
    """See the module."""

    def __init__(self, boxes: Mailboxes, grouping: Grouping, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.boxes = boxes
        self.grouping = grouping
        self.walking = grouping.walking
        self.counters = boxes.counters
        self.call_soon = call_soon
        self.closed = False
        self.waiting = 0
        self.waiters_of: dict[Owner, set[Waiter]] = {}
        self.groups_of: dict[Owner, set[tuple[Mailbox, Group]]] = {}  # where an owner may hold leases
        self.deferred: dict[Owner, int] = {}  # FETCHes that go on when a commit returns
        self.gone: set[Owner] = set()  # of those, the connections that have closed
        self.to_wake: list[Mailbox] = []
        # Set by dead_letters.py: takes a message that was handed out too often.
        self.exhausted: Callable[[Mailbox, Group, Delivery, Fetched], None] = ignore
        self.push: Callable[[Mailbox], None] = ignore  # set by pushing.py: says what there is to subscribers
        boxes.on_removed = self._mailbox_removed

    # --- Asking -----------------------------------------------------------------------------------------------

    def fetch(self, mailbox: Mailbox, wanted: Wanted, answer: Answer) -> None:
        """Answer with what there is, or with what comes within `wait_ms`, or with nothing.

        Messages whose commit is on its way count as there: the answer waits for it.
        """
        self.counters.fetches += 1
        if mailbox.staged_ops:
            self._defer(wanted.owner)
            mailbox.shelf.commit.then(self._settled, mailbox, wanted, answer)
        else:
            self._begin(mailbox, wanted, answer)

    def _settled(self, failure: Mq9Error | None, mailbox: Mailbox, wanted: Wanted, answer: Answer) -> None:
        """A commit that failed is its senders' trouble: what was there before is still there."""
        if not self._still_there(wanted.owner):
            return
        if self._is_elsewhere():
            answer(_stopping(), [])
            return
        if mailbox.removed:
            answer(error("MAILBOX_NOT_FOUND", name=mailbox.address.decode("utf-8", "replace")), [])
            return
        try:
            self._begin(mailbox, wanted, answer)
        except Mq9Error as trouble:
            answer(trouble, [])

    def _begin(self, mailbox: Mailbox, wanted: Wanted, answer: Answer) -> None:
        if not wanted.group:
            after_id = self.grouping.start_of(mailbox, wanted, inclusive=False)
            found = self.walking.stateless(mailbox, after_id, wanted.most, wanted.tags)
            if found or not wanted.wait_ms:
                self._give(found, answer)
            else:
                self._wait(mailbox, wanted, after_id, answer)
            return
        group = self.grouping.find(mailbox, wanted.group)
        if group is not None and group.pinned and not wanted.force:
            self._collect_or_wait(mailbox, group, wanted, answer)
            return
        if group is None or wanted.force:
            try:
                group = self.grouping.pin(mailbox, group, wanted)
            except Mq9Error as failure:
                answer(failure, [])
                return
        # Where a group begins is durable before its first message is handed out: else a crash could move its beginning
        # beyond what it was given.
        mailbox.staged_acks += 1
        self._defer(wanted.owner)
        mailbox.shelf.commit.then(self._pinned, mailbox, group, wanted, answer)

    def _defer(self, owner: Owner) -> None:
        """A FETCH of this connection goes on when a commit returns."""
        self.deferred[owner] = self.deferred.get(owner, 0) + 1

    def _still_there(self, owner: Owner) -> bool:
        """Whether the connection is still there to go on for: nothing may be leased to one that has closed meanwhile."""
        is_there = owner not in self.gone
        self.deferred[owner] -= 1
        if not self.deferred[owner]:
            del self.deferred[owner]
            self.gone.discard(owner)
        return is_there

    def _give(self, found: list[Fetched], answer: Answer) -> None:
        self.counters.fetched_messages += len(found)
        answer(None, found)

    def _pinned(self, failure: Mq9Error | None, mailbox: Mailbox, group: Group, wanted: Wanted, answer: Answer) -> None:
        mailbox.staged_acks -= 1
        is_there = self._still_there(wanted.owner)
        if failure is not None:
            answer(failure, [])
            return
        group.pinned = True
        if wanted.force or mailbox.pushed:
            self.wake(mailbox)  # others of the group found it not ready, or had come to its end
        if not is_there:
            return
        if self._is_elsewhere():
            answer(_stopping(), [])
            return
        current = mailbox.groups.get(group.name)  # another client may have forced a restart meanwhile
        if mailbox.removed or current is None:
            answer(error("MAILBOX_NOT_FOUND", name=mailbox.address.decode("utf-8", "replace")), [])
            return
        try:
            self._collect_or_wait(mailbox, current, wanted, answer)
        except Mq9Error as trouble:
            answer(trouble, [])

    # --- Handing out ------------------------------------------------------------------------------------------

    def _collect_or_wait(self, mailbox: Mailbox, group: Group, wanted: Wanted, answer: Answer) -> None:
        if not wanted.hold:
            group.end_leases_of(wanted.owner)
        found = self._collect(mailbox, group, wanted)
        if found or not wanted.wait_ms:
            self._give(found, answer)
        else:
            self._wait(mailbox, wanted, 0, answer)

    def _collect(self, mailbox: Mailbox, group: Group, wanted: Wanted) -> list[Fetched]:
        """Lease the group's next messages to the owner."""
        found, lease = self.take(mailbox, group, wanted)
        if found:
            self._begin_lease(mailbox, group, lease, wanted.lease_ms)
        return found

    def take(self, mailbox: Mailbox, group: Group, wanted: Wanted) -> tuple[list[Fetched], Lease]:
        """The group's next messages, tier by tier, returned ones before new ones, by id; and a lease on them that is not
        begun yet: the caller begins or settles it."""
        lease = Lease(wanted.owner)
        pick = _Pick(wanted, lease, self.boxes.clock.wall_ms())
        for tier in range(TIERS):
            if not wanted.tiers >> tier & 1:
                continue
            try:
                if group.tiers[tier].ready:
                    self._collect_ready(mailbox, group, tier, pick)
                if mailbox.counts[tier]:
                    self._collect_new(mailbox, group, tier, pick)
            except StorageError as failure:
                if not pick.found:
                    raise
                self.boxes.note_damage(mailbox, failure)  # what was found before it goes out; who asks next is told
                break
            if pick.full:
                break
        if pick.looked_at >= _LOOK_MAX and not pick.found:
            self.wake(mailbox)  # more may match further on
        return pick.found, lease

    def _begin_lease(self, mailbox: Mailbox, group: Group, lease: Lease, lease_ms: int) -> None:
        group.begin(lease)
        deadline_s = self.boxes.clock.monotonic_s() + lease_ms / 1000
        lease.timer = self.boxes.timers.at(deadline_s, self._lease_expired, mailbox, group, lease)
        places = self.groups_of.setdefault(lease.owner, set())
        if len(places) >= _PLACES_MAX:
            places.difference_update([place for place in places if lease.owner not in place[1].leases])
        places.add((mailbox, group))

    def _collect_ready(self, mailbox: Mailbox, group: Group, tier: int, pick: _Pick) -> None:
        passed_over: list[Delivery] = []
        most = mailbox.definition.max_deliver
        while not pick.full:
            delivery = group.pop_ready(tier)
            if delivery is None:
                break
            pick.looked_at += 1
            message = self.walking.read(mailbox, tier, delivery.msg_id, pick.now_ms)
            if message is None:
                put_floors(mailbox, group, group.vanish(delivery.msg_id))
            elif not has_tags(message, pick.wanted.tags):
                passed_over.append(delivery)
            elif most and delivery.count >= most:
                self.exhausted(mailbox, group, delivery, Fetched(tier, delivery.msg_id, message, delivery.count))
            else:
                self.counters.redeliveries += delivery.count > 0
                group.leased(pick.lease, delivery)
                pick.take(Fetched(tier, delivery.msg_id, message, delivery.count), len(message.payload))
        for delivery in passed_over:
            group.make_ready(delivery)

    def _collect_new(self, mailbox: Mailbox, group: Group, tier: int, pick: _Pick) -> None:
        cursor = group.tiers[tier]
        visible_id = mailbox.visible_id
        scan = mailbox.shelf.store.scan
        live = self.walking.live
        tags = pick.wanted.tags
        while not pick.full and cursor.next_after < visible_id and group.unconfirmed < UNACKED_PER_GROUP_MAX:
            start, stop = tier_range(mailbox.id, tier, cursor.next_after, visible_id)
            rows = scan(Table.MESSAGE, start, stop, pick.room, pick.budget)
            if not rows:
                cursor.next_after = visible_id
                return
            pick.looked_at += len(rows)
            for row_key, row in rows:
                msg_id = int.from_bytes(row_key[-8:], "big")
                confirmed_to = cursor.already_confirmed(msg_id) if cursor.skip else 0
                if confirmed_to:
                    cursor.next_after = confirmed_to
                    continue
                message = live(mailbox, row_key, row, pick.now_ms)
                if message is None:
                    cursor.next_after = self.walking.beyond(row_key, row, cursor.next_after)
                    continue
                delivery = group.passed(tier, msg_id)
                if tags and not has_tags(message, tags):
                    group.make_ready(delivery)
                elif delivery.count and 0 < mailbox.definition.max_deliver <= delivery.count:  # pushed before a crash, maybe
                    self.exhausted(mailbox, group, delivery, Fetched(tier, msg_id, message, delivery.count))
                else:
                    group.leased(pick.lease, delivery)
                    pick.take(Fetched(tier, msg_id, message, delivery.count), len(row))

    def _lease_expired(self, mailbox: Mailbox, group: Group, lease: Lease) -> int:
        returned = group.end_lease(lease)
        if returned:
            self.counters.leases_expired += 1
            self.wake(mailbox)
        return returned

    # --- Waiting ----------------------------------------------------------------------------------------------

    def _wait(self, mailbox: Mailbox, wanted: Wanted, after_id: int, answer: Answer) -> None:
        if len(mailbox.waiters) >= WAITERS_PER_MAILBOX_MAX or self.waiting >= WAITERS_MAX:
            answer(error("LIMIT_EXCEEDED", reason="requests waiting for messages"), [])
            return
        waiter = Waiter(mailbox, wanted, after_id, answer)
        deadline_s = self.boxes.clock.monotonic_s() + wanted.wait_ms / 1000
        waiter.timer = self.boxes.timers.at(deadline_s, self._wait_over, waiter)
        mailbox.waiters.append(waiter)
        self.waiters_of.setdefault(wanted.owner, set()).add(waiter)
        self.waiting += 1
        self.counters.waits += 1

    def _end_wait(self, waiter: Waiter) -> Answer | None:
        """Take the waiter out of the books; whoever gets its answer function must call it."""
        answer, waiter.answer = waiter.answer, None
        if answer is None:
            return None
        self.waiting -= 1
        if waiter.timer is not None:
            waiter.timer.cancel()
        mine = self.waiters_of.get(waiter.wanted.owner)
        if mine is not None:
            mine.discard(waiter)
            if not mine:
                del self.waiters_of[waiter.wanted.owner]
        return answer

    def _wait_over(self, waiter: Waiter) -> None:
        answer = self._end_wait(waiter)
        if answer is not None:
            waiter.mailbox.waiters.remove(waiter)
            answer(None, [])

    def wake(self, mailbox: Mailbox) -> None:
        """Something may be there for those who wait: look, once this turn of the loop is over."""
        if mailbox.waking or not (mailbox.waiters or mailbox.pushed):
            return
        mailbox.waking = True
        if not self.to_wake:
            self.call_soon(self._wake_all)
        self.to_wake.append(mailbox)

    def _wake_all(self) -> None:
        mailboxes, self.to_wake = self.to_wake, []
        for mailbox in mailboxes:
            mailbox.waking = False
            if mailbox.waiters:
                self._serve_waiters(mailbox)
            if mailbox.pushed:
                try:
                    self.push(mailbox)
                except StorageError as failure:
                    self.boxes.note_damage(mailbox, failure)

    def _serve_waiters(self, mailbox: Mailbox) -> None:
        """Oldest first. A group that had nothing for one has nothing for the next, unless they filter by tags."""
        dry: set[str] = set()
        left: list[Waiter] = []
        waiters = mailbox.waiters
        while waiters:
            waiter = waiters.popleft()
            if waiter.answer is None:
                continue
            wanted = waiter.wanted
            if wanted.group in dry and not wanted.tags:
                left.append(waiter)
                continue
            try:
                found = self._look_again(mailbox, waiter)
            except Mq9Error as failure:
                answer = self._end_wait(waiter)
                if answer is not None:
                    answer(failure, [])
                continue
            if found:
                answer = self._end_wait(waiter)
                if answer is not None:
                    self._give(found, answer)
            else:
                left.append(waiter)
                if wanted.group and not wanted.tags:
                    dry.add(wanted.group)
        waiters.extend(waiter for waiter in left if waiter.answer is not None)

    def _look_again(self, mailbox: Mailbox, waiter: Waiter) -> list[Fetched]:
        wanted = waiter.wanted
        if not wanted.group:
            return self.walking.stateless(mailbox, waiter.after_id, wanted.most, wanted.tags)
        group = self.grouping.find(mailbox, wanted.group)
        return [] if group is None or not group.pinned else self._collect(mailbox, group, wanted)

    # --- Going away -------------------------------------------------------------------------------------------

    def owner_gone(self, owner: Owner) -> None:
        """A connection closed: its waits end unanswered, what it leased is free at once."""
        if owner in self.deferred:
            self.gone.add(owner)
        for waiter in self.waiters_of.pop(owner, ()):
            waiter.answer = None
            self.waiting -= 1
            if waiter.timer is not None:
                waiter.timer.cancel()
            _leave_line(waiter)
        for mailbox, group in self.groups_of.pop(owner, ()):
            if group.end_leases_of(owner):
                self.wake(mailbox)

    def close(self) -> None:
        """The broker stops: those who wait are told to ask again, elsewhere or later."""
        self.closed = True
        failure = _stopping()
        for waiters in list(self.waiters_of.values()):
            for waiter in list(waiters):
                answer = self._end_wait(waiter)
                if answer is not None:
                    _leave_line(waiter)
                    answer(failure, [])

    def _is_elsewhere(self) -> bool:
        """Whether another broker may serve these mailboxes by now. One that stops outside a cluster still answers with what was
        asked for before."""
        return self.closed and self.boxes.durable.slot is not None

    def _mailbox_removed(self, mailbox: Mailbox) -> None:
        failure = error("MAILBOX_NOT_FOUND", name=mailbox.address.decode("utf-8", "replace"))
        waiters = list(mailbox.waiters)
        mailbox.waiters.clear()
        for waiter in waiters:
            answer = self._end_wait(waiter)
            if answer is not None:
                answer(failure, [])


def _stopping() -> Mq9Error:
    return error("UNAVAILABLE", reason="the broker is stopping")


def _leave_line(waiter: Waiter) -> None:
    """Its answer may end the connection of others in the same line, and they may be out of it already, being looked at."""
    line = waiter.mailbox.waiters
    if waiter in line:
        line.remove(waiter)


class _Pick:
    """What one look through a group's messages has found so far, and how much more it may take."""

    __slots__ = ("budget", "found", "lease", "looked_at", "now_ms", "wanted")

    def __init__(self, wanted: Wanted, lease: Lease, now_ms: int) -> None:
        self.wanted = wanted
        self.lease = lease
        self.now_ms = now_ms
        self.found: list[Fetched] = []
        self.budget = wanted.budget
        self.looked_at = 0

    @property
    def room(self) -> int:
        return self.wanted.most - len(self.found)

    @property
    def full(self) -> bool:
        return len(self.found) >= self.wanted.most or self.budget <= 0 or self.looked_at >= _LOOK_MAX

    def take(self, item: Fetched, size: int) -> None:
        self.found.append(item)
        self.budget -= size
