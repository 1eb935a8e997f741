"""The storage contract: an ordered key-value store with atomic, durable batches.

What the store owns: bytes on disk, when they are durable, and telling damage and a full disk apart. What it does not
know: NATS, mailboxes, time, asyncio. What rows mean is `layout.py`; what their bytes are is `records.py`.

The whole contract is the methods of `Store`. A batch is also exactly what a replica needs to repeat a change,
which is why batches carry resolved rows and never intentions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Table(IntEnum):
    """The tables of a store. Keys sort bytewise inside a table. Numbers are on disk: append, never renumber."""

    META = 0  # name -> value: format version, slots, sequences
    MAILBOX = 1  # slot u16, address -> mailbox definition
    STATE = 2  # mailbox u64 -> last id, counts, bytes
    MESSAGE = 3  # mailbox u64, tier u8, msg_id u64 -> message
    KEY = 4  # mailbox u64, key digest -> tier, msg_id of the newest message of the key
    DEDUP = 5  # mailbox u64, idempotency id digest -> msg_id
    EXPIRY = 6  # slot u16, time_ms u64, kind u8, what -> empty: what is reclaimed when
    DELAYED = 7  # mailbox u64, due_ms u64, sequence u64 -> message
    GROUP = 8  # mailbox u64, group name -> group id, floors
    ACKED = 9  # mailbox u64, group u32, tier u8, low u64 -> high u64: confirmed above the floor
    TRASH = 10  # mailbox u64 -> empty: a dead mailbox whose rows are still to be deleted
    AGENT = 11  # slot u16, agent name -> agent record
    AGENT_VECTOR = 12  # slot u16, agent name -> embedding vectors of the record above
    SLOT = 13  # slot u16 -> how far this node has the slot, in which epochs (members of a cluster only)
    SLOT_LOG = 14  # slot u16, offset u64 -> the keys that the slot's entry changed


TABLE_COUNT = len(Table)
Row = tuple[bytes, bytes]


class Batch:
    """Changes that become durable together or not at all. For one key the last change wins.

    `tables[table]` maps key -> new value, or None to delete; the hot path may write to it directly and then adds to
    `bytes_staged` itself. A key that is deleted need not exist.
    """

    __slots__ = ("bytes_staged", "tables")

    def __init__(self) -> None:
        self.tables: list[dict[bytes, bytes | None]] = [{} for _ in range(TABLE_COUNT)]
        self.bytes_staged = 0

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self.tables[table][key] = value
        self.bytes_staged += len(key) + len(value)

    def update(self, rows: Mapping[int, Mapping[bytes, bytes | None]]) -> None:
        """Many changes at once, by table and key."""
        for table, changes in rows.items():
            self.tables[table].update(changes)
            self.bytes_staged += sum(len(key) + len(value or b"") for key, value in changes.items())

    def delete(self, table: Table, key: bytes) -> None:
        self.tables[table][key] = None
        self.bytes_staged += len(key)

    def __len__(self) -> int:
        """Number of changes."""
        return sum(map(len, self.tables))


@dataclass(frozen=True, slots=True)
class StoreStat:
    """Sizes in bytes. `writable` is False while the disk reserve is used up: new data is refused, deletes go on; and when the
    store has `failed`, which no commit mends."""

    used_bytes: int
    file_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    writable: bool
    failed: bool = False


class Store(Protocol):
    """One data directory (or one process's memory).

    Threads: `commit` may run on one writer thread at a time; `get` and `scan` on any thread, also during a commit.
    Readers see committed batches only, whole ones only. No method keeps a transaction open after it returns.
    """

    sync_s: float  # how long the last commit waited for the disk, in seconds

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def get_many(self, keys: Iterable[tuple[Table, bytes]]) -> list[bytes | None]:
        """The values of all keys as of one moment: no commit falls between them."""

    def scan(self, table: Table, start: bytes, stop: bytes, limit: int, bytes_max: int = 1 << 62) -> list[Row]:
        """Rows with start <= key < stop in key order: at most `limit`, and no more once `bytes_max` is passed
        (at least one row if there is one). It counts values; the row that reaches it is the last. Copies, not views."""

    def keys(self, table: Table, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """The keys of the rows that `scan` gives, without reading their values."""

    def last(self, table: Table, start: bytes, stop: bytes) -> Row | None:
        """The row with the greatest key in start <= key < stop, or None."""

    def commit(self, batch: Batch) -> None:
        """Make the whole batch durable; it is on stable storage when this returns.

        Raises an Mq9Error STORAGE_FULL (nothing changed; a later commit may succeed) or STORAGE_FAILED (nothing may be
        assumed; every later commit fails too, because a failed fsync must never be retried into a success). A key that is
        empty or longer than 511 bytes is a bug: ValueError, nothing changed. An empty batch costs nothing.
        """

    def stat(self) -> StoreStat:
        """Sizes now; cheap enough for once a second."""

    def close(self) -> None:
        """Release the directory. Everything committed stays."""
