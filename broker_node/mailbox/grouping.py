"""The groups of a mailbox: loading them, pinning where a new one begins, and storing their floors."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from broker_node.mailbox.group import Group
from broker_node.mailbox.model import GroupRow, Mailbox, Owner, Shelf
from broker_node.mailbox.walking import Walking
from mq9.errors import error
from mq9.limits import FETCH_BYTES_MAX, GROUP_LAG_COUNT_MAX, GROUPS_PER_MAILBOX_MAX
from mq9.storage.interface import Table
from mq9.storage.layout import (
    TIERS,
    acked_key,
    acked_range,
    group_key,
    mailbox_range,
    pack_u64,
    tier_range,
    unpack_acked_key,
    unpack_u64,
)
from mq9.storage.receipts import Range, Receipt
from mq9.storage.records import seal, unseal

EARLIEST: Final = "earliest"
LATEST: Final = "latest"
FROM_ID: Final = "from_id"
FROM_TIME: Final = "from_time"

_group_rows: Final = msgspec.msgpack.Decoder(GroupRow)


class Wanted(NamedTuple):
    """What a FETCH asks for. `group` empty: stateless. `start` is the id or the time in ms that `deliver` refers to."""

    owner: Owner
    group: str
    most: int
    wait_ms: int
    deliver: str
    start: int
    force: bool
    tags: tuple[bytes, ...]
    lease_ms: int
    hold: bool
    tiers: int = (1 << TIERS) - 1  # bit n: messages of tier n are wanted
    budget: int = FETCH_BYTES_MAX  # no further message once those found come to this many bytes


class GroupSummary(msgspec.Struct):
    """One group as the monitor shows it. `lag`: messages it has not confirmed, counted up to a limit; `unacked`: of
    those, the ones it was given."""

    name: str
    lag: int
    unacked: int


class Grouping:
    """See the module."""

    def __init__(self, walking: Walking) -> None:
        self.walking = walking
        self.taken: dict[tuple[int, int], list[Range]] = {}  # pushing.py: (mailbox, group id) -> confirmed, on its way to disk

    def find(self, mailbox: Mailbox, name: str) -> Group | None:
        """The group of that name, loaded from the store if need be, or None."""
        if not mailbox.groups_loaded:
            self._load(mailbox)
        return mailbox.groups.get(name)

    def _load(self, mailbox: Mailbox) -> None:
        store = mailbox.shelf.store
        prefix = len(mailbox_range(mailbox.id)[0])
        for row_key, row in store.scan(Table.GROUP, *mailbox_range(mailbox.id), GROUPS_PER_MAILBOX_MAX + 1):
            stored = _group_rows.decode(unseal(row_key, row))
            name = row_key[prefix:].decode()
            group = Group(name, stored.group_id, stored.floors, stored.claimed)
            group.pinned = True
            ranges: list[dict[int, int]] = [{} for _ in range(TIERS)]
            for range_key, range_row in store.scan(Table.ACKED, *acked_range(mailbox.id, stored.group_id), 1 << 30):
                _, _, tier, low = unpack_acked_key(range_key)
                ranges[tier][low] = unpack_u64(unseal(range_key, range_row))
            for tier, low, high in self.taken.get((mailbox.id, stored.group_id), ()):
                ranges[tier][low] = max(high, ranges[tier].get(low, 0))
            for cursor, found in zip(group.tiers, ranges, strict=True):
                cursor.load_ranges(sorted(found.items()))
            mailbox.groups[name] = group
            mailbox.next_group_id = max(mailbox.next_group_id, stored.group_id + 1)
        mailbox.groups_loaded = True

    def pin(self, mailbox: Mailbox, old: Group | None, wanted: Wanted) -> Group:
        """Make a group that begins where `wanted` says, in place of `old` if there is one, in the open batch."""
        if old is None and len(mailbox.groups) >= GROUPS_PER_MAILBOX_MAX:
            raise error("LIMIT_EXCEEDED", reason=f"{GROUPS_PER_MAILBOX_MAX} groups in one mailbox")
        batch = mailbox.shelf.commit.batch
        if old is not None:
            self.drop(mailbox, old)
            for tier, cursor in enumerate(old.tiers):
                for low in cursor.ranges:
                    batch.delete(Table.ACKED, acked_key(mailbox.id, old.group_id, tier, low))
        floor = self.start_of(mailbox, wanted, inclusive=old is None)
        group = Group(wanted.group, mailbox.next_group_id, (floor,) * TIERS)
        mailbox.next_group_id += 1
        mailbox.groups[wanted.group] = group
        self.put(mailbox, group)
        return group

    def recover(self, shelf: Shelf, receipts: list[Receipt]) -> None:
        """Put into the open batch what an earlier process knew to be taken and had not confirmed."""
        floors: dict[tuple[int, int], tuple[int, ...]] = {}
        for mailbox_id in {receipt.mailbox for receipt in receipts}:
            for row_key, row in shelf.store.scan(Table.GROUP, *mailbox_range(mailbox_id), GROUPS_PER_MAILBOX_MAX + 1):
                stored = _group_rows.decode(unseal(row_key, row))
                floors[mailbox_id, stored.group_id] = stored.floors
        for mailbox_id, group_id, tier, low, high in receipts:
            place = mailbox_id, group_id
            if place not in floors or high <= floors[place][tier]:
                continue
            row_key = acked_key(mailbox_id, group_id, tier, low)
            old = shelf.store.get(Table.ACKED, row_key)
            if old is None or unpack_u64(unseal(row_key, old)) < high:
                self.taken.setdefault(place, []).append((tier, low, high))
                shelf.commit.batch.put(Table.ACKED, row_key, seal(row_key, pack_u64(high)))

    @staticmethod
    def put(mailbox: Mailbox, group: Group) -> None:
        """Put the group's floors, and how far it has claimed, into the open batch."""
        row_key = group_key(mailbox.id, group.name.encode())
        row = seal(row_key, msgspec.msgpack.encode(GroupRow(group.group_id, group.floors, group.claims)))
        mailbox.shelf.commit.batch.put(Table.GROUP, row_key, row)

    @staticmethod
    def drop(mailbox: Mailbox, group: Group) -> None:
        """Forget the in-memory group: leases and counts go, what is stored stays."""
        group.end_all_leases()
        if mailbox.groups.get(group.name) is group:
            del mailbox.groups[group.name]

    def start_of(self, mailbox: Mailbox, wanted: Wanted, *, inclusive: bool) -> int:
        """The id after which `wanted.deliver` begins. `inclusive`: `latest` means the newest stored message too."""
        if wanted.deliver == EARLIEST:
            return 0
        if wanted.deliver == FROM_ID:
            return min(max(wanted.start - 1, 0), mailbox.visible_id)
        if wanted.deliver == FROM_TIME:
            return self.walking.first_id_at(mailbox, wanted.start) - 1
        if inclusive:
            newest_id = self.walking.newest_id(mailbox)
            if newest_id:
                return newest_id - 1
        return mailbox.visible_id

    def summaries(self, mailbox: Mailbox) -> list[GroupSummary]:
        """Every group of the mailbox."""
        if not mailbox.groups_loaded:
            self._load(mailbox)
        return [
            GroupSummary(group.name, group.unconfirmed + self._unread(mailbox, group), group.unconfirmed)
            for group in mailbox.groups.values()
        ]

    @staticmethod
    def _unread(mailbox: Mailbox, group: Group) -> int:
        unread = 0
        for tier, cursor in enumerate(group.tiers):
            if mailbox.counts[tier] and unread < GROUP_LAG_COUNT_MAX:
                start, stop = tier_range(mailbox.id, tier, cursor.next_after, mailbox.visible_id)
                unread += len(mailbox.shelf.store.keys(Table.MESSAGE, start, stop, GROUP_LAG_COUNT_MAX - unread))
        return unread
