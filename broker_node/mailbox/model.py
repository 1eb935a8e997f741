"""The things of the domain: a mailbox's stored definition, its in-memory state, and the store it lives in."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mq9.protocol.message import StoredMessage
from mq9.storage.interface import Table
from mq9.storage.layout import SEQUENCE_BITS, pack_u64, sequence_key
from mq9.storage.records import MailboxState, pack_state, seal, unseal

if TYPE_CHECKING:
    from broker_node.mailbox.fetching import Waiter
    from broker_node.mailbox.group import Group
    from broker_node.mailbox.timers import Timer
    from mq9.storage.commit import Commit
    from mq9.storage.interface import Store

_COUNTERS: Final = struct.Struct(">QQ")  # the META row of a shelf: last mailbox sequence, live mailboxes

# Where a shelf in memory begins to count: an id is of one mailbox, whichever shelf that is on.
_MEMORY_SEQUENCE: Final = 1 << (SEQUENCE_BITS - 1)

NEVER_MS: Final = 1 << 62

# The handler's view of who asked: a connection id. 0 is the broker itself.
Owner = int


class Definition(msgspec.Struct, array_like=True, frozen=True):
    """A MAILBOX row. Stored as a msgpack array: append fields with defaults, never reorder or remove."""

    mailbox: int  # its id in every other table
    created_ms: int
    ttl_s: int = 0
    expires_ms: int = 0  # 0: never
    desc: str = ""
    public: bool = False
    max_deliver: int = 0  # 0: no limit
    dead_letter: str = ""
    ack_wait_ms: int = 0  # 0: the server's default
    memory: bool = False


class GroupRow(msgspec.Struct, array_like=True, frozen=True):
    """A GROUP row. Stored as a msgpack array: append fields with defaults."""

    group_id: int
    floors: tuple[int, ...]
    claimed: tuple[int, ...] = ()  # by tier: up to here messages may have been pushed that are not confirmed; 0: nothing was


class Shelf:
    """A store and the group commit in front of it. A partition has two: the durable one and the one in memory.

    In a cluster the durable store is that of all partitions of the node, and `slot` says which rows are this one's.
    Bookkeeping that every message changes (a mailbox's STATE, the shelf's own counters) is written once a commit, by
    `write_state`, which the group commit calls just before it seals a batch.
    """

    __slots__ = (
        "_sequence_key",
        "commit",
        "counters_touched",
        "expiry_slot",
        "mailboxes",
        "memory",
        "sequence",
        "slot",
        "store",
        "touched",
        "writable",
    )

    def __init__(self, store: Store, commit: Commit, *, memory: bool, slot: int | None = None) -> None:
        self.store = store
        self.commit = commit
        self.memory = memory
        self.slot = slot  # None: all of them
        self.expiry_slot = slot or 0  # what EXPIRY keys begin with
        self._sequence_key = sequence_key(slot)
        self.writable = True  # False while the disk reserve is used up; refreshed by reclaim.py
        self.touched: list[Mailbox] = []
        self.counters_touched = False
        self.sequence = _MEMORY_SEQUENCE if memory else 0
        self.mailboxes = 0
        self.load_counters()
        commit.before_seal = self.write_state

    def load_counters(self) -> None:
        """Take the counters from the store: at the start, and when a commit that held newer ones failed."""
        self.counters_touched = False
        row = self.store.get(Table.META, self._sequence_key)
        if row is not None:
            sequence, self.mailboxes = _COUNTERS.unpack(unseal(self._sequence_key, row))
            self.sequence = max(self.sequence, sequence)  # an id is never given out twice

    def touch(self, mailbox: Mailbox) -> None:
        """The mailbox's STATE must go into the open batch."""
        mailbox.touched = True
        self.touched.append(mailbox)

    def write_state(self) -> None:
        """Put what the open batch must say about mailboxes and about the shelf."""
        batch = self.commit.batch
        for mailbox in self.touched:
            mailbox.touched = False
            if not mailbox.removed:
                key = pack_u64(mailbox.id)
                batch.put(Table.STATE, key, pack_state(key, mailbox.state))
        self.touched.clear()
        if self.counters_touched:
            self.counters_touched = False
            key = self._sequence_key
            batch.put(Table.META, key, seal(key, _COUNTERS.pack(self.sequence, self.mailboxes)))


class Fetched(NamedTuple):
    """One message on its way into a reply. `deliveries` counts this one; 0 outside groups."""

    tier: int
    msg_id: int
    message: StoredMessage
    deliveries: int


class Doomed(NamedTuple):
    """What is needed to take one message out of every table. `size` is that of its sealed record."""

    tier: int
    msg_id: int
    size: int
    expires_ms: int = 0
    key: bytes = b""  # set it to free the key too


class OfKey(NamedTuple):
    """The newest message of an mq9-key. `staged`: its commit has not returned."""

    row: Doomed
    header: bytes
    payload: bytes
    staged: bool


class Mailbox:
    """What is kept in memory of a mailbox that was used lately; all of it can be rebuilt from the store.

    Ids up to `last_id` are given out, those up to `visible_id` are durable: readers never look beyond it.
    """

    __slots__ = (
        "address",
        "bytes",
        "counts",
        "definition",
        "delay_due_ms",
        "delay_timer",
        "delayed",
        "expires_ms",
        "groups",
        "groups_loaded",
        "id",
        "last_id",
        "last_ms",
        "next_group_id",
        "opened_id",
        "promoting",
        "pushed",
        "removed",
        "shelf",
        "staged_acks",
        "staged_ids",
        "staged_keys",
        "staged_ops",
        "touched",
        "visible_id",
        "waiters",
        "waking",
    )

    def __init__(self, address: bytes, definition: Definition, state: MailboxState, shelf: Shelf) -> None:
        self.address = address
        self.definition = definition
        self.id = definition.mailbox
        self.expires_ms = definition.expires_ms or NEVER_MS
        self.shelf = shelf
        self.last_id = state.last_id
        self.visible_id = state.last_id
        self.opened_id = state.last_id  # ids up to here are older than this object
        self.counts = list(state.counts)
        self.bytes = state.size
        self.delayed = state.delayed
        self.last_ms = state.last_ms
        self.groups: dict[str, Group] = {}
        self.groups_loaded = False
        self.next_group_id = 1
        self.touched = False  # in shelf.touched
        self.removed = False
        self.staged_ops = 0  # staged changes of messages whose commit has not returned
        self.staged_acks = 0  # the same for confirmations
        self.staged_keys: dict[bytes, OfKey] = {}
        self.staged_ids: dict[bytes, int] = {}  # idempotency id -> msg_id; both only while not committed
        self.waiters: deque[Waiter] = deque()
        self.waking = False
        self.pushed = False  # somebody subscribes to it
        self.delay_timer: Timer | None = None
        self.delay_due_ms = 0  # when it fires
        self.promoting: set[bytes] = set()  # DELAYED rows whose promotion has not been committed

    def reset(self, state: MailboxState) -> None:
        """A commit failed: go back to what the store has. Ids that were given out stay used."""
        self.visible_id = state.last_id
        self.counts = list(state.counts)
        self.bytes = state.size
        self.delayed = state.delayed
        self.staged_keys.clear()
        self.staged_ids.clear()
        self.promoting.clear()
        self.groups_loaded = False

    @property
    def state(self) -> MailboxState:
        """The STATE row as it should be now."""
        counts = self.counts
        return MailboxState(
            self.last_id,
            (counts[0], counts[1], counts[2], counts[3]),
            self.bytes,
            self.delayed,
            self.last_ms,
            self.address,
        )

    @property
    def messages(self) -> int:
        """Messages stored, without delayed ones that are not due."""
        return sum(self.counts)

    @property
    def idle(self) -> bool:
        """Nothing but the store would miss this object."""
        if self.staged_ops or self.staged_acks or self.waiters or self.pushed or self.touched or self.delay_timer:
            return False
        return not any(group.by_id for group in self.groups.values())


EMPTY_STATE = MailboxState(0, (0, 0, 0, 0), 0, 0, 0)
