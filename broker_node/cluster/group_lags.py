"""Which consumer groups are furthest behind, of the mailboxes led here: for `mq9 cluster status`.

Nobody is asked for it on the way of a message. A walk over the rows of all groups goes round and round, a bounded piece at each
tick, and counts keys, without reading a message but the oldest of a group that is worth telling of. What it found goes to the
meta service with the heartbeats, so it is as old as a round takes: two seconds, and a minute for some 10,000 groups that are far
behind. Mailboxes in memory are not in the store and not told of. A private address is a secret: only its beginning is told.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from broker_node.mailbox.mailboxes import ignore
from broker_node.mailbox.model import Definition, GroupRow
from mq9.errors import StorageError
from mq9.limits import GROUP_LAG_COUNT_MAX
from mq9.storage.interface import Row, Table
from mq9.storage.layout import (
    TIERS,
    acked_range,
    mailbox_key,
    pack_u64,
    slot_range,
    tier_range,
    unpack_acked_key,
    unpack_message_key,
    unpack_u64,
)
from mq9.storage.records import MailboxState, unpack_message, unpack_state, unseal
from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from mq9.clock import Clock
    from mq9.storage.interface import Store

log = logging.getLogger("mq9.cluster")

TOLD_MAX: Final = 20  # groups in a heartbeat
ROUND_S: Final = 2.0  # from the beginning of one round to that of the next, at least
_ROWS_PER_TICK: Final = 1000  # under a millisecond, ten times a second
_CHUNK: Final = 250
_SEEK_ROWS: Final = 5  # what finding a place in the store costs, in rows
_RANGES_MAX: Final = 1000  # of what a group confirmed out of order; beyond that it counts as not confirmed
_ADDRESS_SHOWN: Final = 8  # characters of a private one: who knows the address knows which it is, and nobody else can use it
_group: Final = msgspec.msgpack.Decoder(GroupRow).decode
_definition: Final = msgspec.msgpack.Decoder(Definition).decode

Range = tuple[int, int]  # (low, high]: what was confirmed after low, high with it


class _Lag(NamedTuple):
    """One group; the first fields are those by which the worst are chosen."""

    lag: int
    oldest_ms: int  # when the oldest message was made that it has not confirmed; 0: there is none
    mailbox: int
    group: str
    address: bytes


class GroupLags:
    """See the module. `served`: the slots led here now; the caller's collection, which changes."""

    def __init__(self, store: Store, clock: Clock, served: Collection[int]) -> None:
        self._store = store
        self._clock = clock
        self._served = served
        self.on_damaged: Callable[[int, StorageError], None] = ignore  # gets the slot of what could not be read
        self._found: list[_Lag] = []  # in this round
        self._worst: list[tuple[_Lag, str]] = []  # in the last one that is complete, with what is shown of the address
        self._walk: Iterator[int] | None = None
        self._next_round_s = 0.0

    def worst(self) -> list[meta.GroupLag]:
        """The groups that are furthest behind, worst first."""
        now_ms = self._clock.wall_ms()
        return [
            meta.GroupLag(
                mailbox=each.mailbox, address=shown, group=each.group, lag=each.lag,
                oldest_age_ms=max(0, now_ms - each.oldest_ms) if each.oldest_ms else 0,
            )
            for each, shown in self._worst if each.mailbox >> 48 in self._served
        ]  # fmt: skip

    def step(self) -> None:
        """A bounded piece of the walk."""
        now_s = self._clock.monotonic_s()
        if self._walk is None:
            if now_s < self._next_round_s:
                return
            self._next_round_s = now_s + ROUND_S
            self._walk = self._round()
        rows = 0
        try:
            while rows < _ROWS_PER_TICK:
                rows += next(self._walk)
        except StopIteration:
            self._walk = None
            worst = ((each, self._shown(each)) for each in heapq.nlargest(TOLD_MAX, self._found))
            self._worst = [(each, shown) for each, shown in worst if shown is not None]
            self._found = []
        except StorageError as failure:
            log.debug("cannot tell how far groups are behind: %s", failure)
            self._walk = None
            self._found = []

    def _round(self) -> Iterator[int]:
        """All groups of all slots that are led here; each step says how many rows it has looked at."""
        for slot in sorted(self._served):
            start, stop = slot_range(slot)
            while start:
                rows = self._store.scan(Table.GROUP, start, stop, _CHUNK)
                yield _SEEK_ROWS + len(rows)
                for row in rows:
                    yield from self._look(row)
                start = rows[-1][0] + b"\0" if len(rows) == _CHUNK else b""

    def _look(self, row: Row) -> Iterator[int]:
        try:
            mailbox = unpack_u64(row[0][:8])
            state_key = pack_u64(mailbox)
            state_row = self._store.get(Table.STATE, state_key)
            yield _SEEK_ROWS
            if state_row is not None:
                group = _group(unseal(*row))
                yield from self._count(mailbox, row[0][8:].decode(), group, unpack_state(state_key, state_row))
        except StorageError as failure:
            self._damaged(row[0], failure)

    def _damaged(self, key: bytes, failure: StorageError) -> None:
        """Something of the mailbox whose id `key` begins with cannot be read: nothing is told of that group."""
        log.debug("cannot tell how far a group is behind: %s", failure)
        self.on_damaged(int.from_bytes(key[:2]), failure)

    def _count(self, mailbox: int, name: str, group: GroupRow, state: MailboxState) -> Iterator[int]:
        lag = 0
        firsts: list[bytes] = []
        confirmed = self._confirmed(mailbox, group.group_id)
        yield _SEEK_ROWS + sum(map(len, confirmed))
        for tier, floor in enumerate(group.floors):
            start, stop = tier_range(mailbox, tier, floor, state.last_id)
            first = b""
            while state.counts[tier] and start and lag < GROUP_LAG_COUNT_MAX:
                keys = self._store.keys(Table.MESSAGE, start, stop, min(_CHUNK, GROUP_LAG_COUNT_MAX - lag))
                yield _SEEK_ROWS + len(keys)
                behind = _outside(keys, confirmed[tier])
                lag += len(behind)
                first = first or next(iter(behind), b"")
                start = keys[-1] + b"\0" if keys else b""
            firsts += [first] if first else []
        oldest_ms = 0
        if firsts and (len(self._found) < TOLD_MAX or lag >= self._found[0].lag):
            rows = ((key, self._store.get(Table.MESSAGE, key)) for key in firsts)
            oldest_ms = min((unpack_message(key, row).create_ms for key, row in rows if row is not None), default=0)
            yield _SEEK_ROWS * len(firsts)
        found = _Lag(lag, oldest_ms, mailbox, name, state.address)
        if len(self._found) < TOLD_MAX:
            heapq.heappush(self._found, found)
        else:
            heapq.heappushpop(self._found, found)

    def _shown(self, lag: _Lag) -> str | None:
        """What is told of a mailbox's address; None when it cannot be read whether that is a secret."""
        key = mailbox_key(lag.address, lag.mailbox >> 48)
        text = lag.address.decode("utf-8", "replace")
        try:
            row = self._store.get(Table.MAILBOX, key)
            is_public = row is not None and _definition(unseal(key, row)).public
        except StorageError as failure:
            self._damaged(key, failure)
            return None
        return text if is_public or len(text) <= _ADDRESS_SHOWN else f"{text[:_ADDRESS_SHOWN]}..."

    def _confirmed(self, mailbox: int, group_id: int) -> list[list[Range]]:
        """What a group confirmed above its floors, by tier, ascending."""
        ranges: list[list[Range]] = [[] for _ in range(TIERS)]
        for key, row in self._store.scan(Table.ACKED, *acked_range(mailbox, group_id), _RANGES_MAX):
            _, _, tier, low = unpack_acked_key(key)
            ranges[tier].append((low, unpack_u64(unseal(key, row))))
        return ranges


def _outside(keys: list[bytes], ranges: list[Range]) -> list[bytes]:
    """The keys of messages, ascending, whose ids are in none of the ranges (low, high], ascending."""
    if not ranges:
        return keys
    outside = []
    at = 0
    for key in keys:
        msg_id = unpack_message_key(key)[2]
        while at < len(ranges) and ranges[at][1] < msg_id:
            at += 1
        if at == len(ranges) or msg_id <= ranges[at][0]:
            outside.append(key)
    return outside
