"""How far a replica has a slot, and which keys each of its entries changed.

An entry is what one commit of the leader changed in the slot. The log keeps the keys only: a replica that lacks the entries
after some offset gets the present values of all keys changed since, as of one moment, and is then exactly at that moment.

Offsets begin at 1. The history says in which epoch each entry was made; equal epochs at an offset mean equal entries up to it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from mq9.errors import StorageError
from mq9.limits import SLOT_LOG_BYTES_MAX
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.layout import SEQUENCE_KEY
from mq9.storage.records import seal, unseal
from mq9.v1 import peer_pb2 as peer

Rows = Mapping[int, Mapping[bytes, bytes | None]]
Keys = dict[int, list[bytes]]
History = list[tuple[int, int]]  # (epoch, its first offset), ascending

_U16: Final = struct.Struct(">H")
_LOG: Final = struct.Struct(">HQ")
_HISTORY_KEPT: Final = 64  # older epochs than these are settled long since
_ALL: Final = 1 << 40

# Every table whose keys begin with the slot, but for the log's own.
SLOT_TABLES: Final = tuple(table for table in Table if table not in (Table.META, Table.SLOT, Table.SLOT_LOG))


class SlotRow(msgspec.Struct, array_like=True):
    """A SLOT row. Stored as a msgpack array: append fields with defaults."""

    last: int = 0
    history: History = []
    copying: bool = False  # a copy began and has not ended: what is here is no state of the slot


class LogRow(msgspec.Struct, array_like=True):
    """A SLOT_LOG row, under its last offset."""

    first: int
    keys: Keys


_decode_slot: Final = msgspec.msgpack.Decoder(SlotRow).decode
_decode_log: Final = msgspec.msgpack.Decoder(LogRow).decode
decode_rows: Final = msgspec.msgpack.Decoder(dict[int, dict[bytes, bytes | None]]).decode
decode_keys: Final = msgspec.msgpack.Decoder(Keys).decode
encode: Final = msgspec.msgpack.Encoder().encode


def slot_range(slot: int) -> tuple[bytes, bytes]:
    """(start, stop) of a slot's rows in every table of SLOT_TABLES."""
    return _U16.pack(slot), _U16.pack(slot + 1) if slot < 0xFFFF else b"\xff\xff\xff"


def sequence_key(slot: int) -> bytes:
    """The META row in which a slot's partition counts."""
    return SEQUENCE_KEY + _U16.pack(slot)


def common_point(ours: Sequence[tuple[int, int]], our_last: int, theirs: Sequence[tuple[int, int]], their_last: int) -> int:
    """The last offset up to which two logs are the same; 0 when they share nothing that is known."""
    ends = _ends(ours, our_last)
    return max((min(end, ends[epoch]) for epoch, end in _ends(theirs, their_last).items() if epoch in ends), default=0)


def _ends(history: Sequence[tuple[int, int]], last: int) -> dict[int, int]:
    """The last offset of each epoch."""
    ends = {epoch: last for epoch, start in history if start <= last}
    for (epoch, _), (_, following) in pairwise(history):
        if epoch in ends:
            ends[epoch] = min(last, following - 1)
    return ends


def read_history(starts: Iterable[peer.EpochStart]) -> History:
    """A history as it travels."""
    return [(each.epoch, each.start) for each in starts]


class SlotLog:
    """One slot on this node: as staged, which is ahead of the store by what is not committed yet."""

    __slots__ = ("_bytes", "_entries", "_slot_key", "copying", "history", "last", "slot", "store")

    def __init__(self, store: Store, slot: int) -> None:
        self.store = store
        self.slot = slot
        self._slot_key = _U16.pack(slot)
        self.load()

    def load(self) -> None:
        """Take what the store has; again after a commit failed. A damaged row counts as no state: only a copy helps."""
        self._entries: deque[tuple[int, int, int]] = deque()  # first, last, size
        self._bytes = 0
        try:
            row = self.store.get(Table.SLOT, self._slot_key)
            found = _decode_slot(unseal(self._slot_key, row)) if row else SlotRow()
            for key, value in self.store.scan(Table.SLOT_LOG, *slot_range(self.slot), _ALL):
                self._note(_decode_log(unseal(key, value)).first, _LOG.unpack(key)[1], len(value))
        except (StorageError, msgspec.MsgspecError, struct.error):
            found = SlotRow(copying=True)
        self.last, self.history, self.copying = found.last, found.history, found.copying

    def _note(self, first: int, last: int, size: int) -> None:
        self._entries.append((first, last, size))
        self._bytes += size

    @property
    def log_start(self) -> int:
        """The first offset whose keys are known."""
        return self._entries[0][0] if self._entries else self.last + 1

    @property
    def is_empty(self) -> bool:
        """Nothing of the slot was ever here, or everything was given up."""
        return not (self.last or self.copying)

    @property
    def epoch(self) -> int:
        """The epoch of the last entry."""
        return self.history[-1][0] if self.history else 0

    # --- Writing ------------------------------------------------------------------------------------------------

    def append(self, batch: Batch, offset: int, rows: Rows) -> None:
        """Stage the rows of the entries up to `offset`, and that they are there."""
        batch.update(rows)
        if offset > self.last:
            key = _LOG.pack(self.slot, offset)
            row = seal(key, encode(LogRow(self.last + 1, {table: list(changes) for table, changes in rows.items()})))
            batch.put(Table.SLOT_LOG, key, row)
            self._note(self.last + 1, offset, len(row))
            self.last = offset
            self._trim(batch)
        self.stage(batch)

    def stage(self, batch: Batch) -> None:
        """Stage the SLOT row."""
        row = SlotRow(self.last, self.history[-_HISTORY_KEPT:], self.copying)
        batch.put(Table.SLOT, self._slot_key, seal(self._slot_key, encode(row)))

    def begin_epoch(self, epoch: int) -> None:
        """The next entry is the first of `epoch`."""
        self.history = [*self.history[-_HISTORY_KEPT:], (epoch, self.last + 1)]

    def _trim(self, batch: Batch) -> None:
        while self._bytes > SLOT_LOG_BYTES_MAX and len(self._entries) > 1:
            self._drop(batch, self._entries.popleft())

    def _drop(self, batch: Batch, entry: tuple[int, int, int]) -> None:
        self._bytes -= entry[2]
        batch.delete(Table.SLOT_LOG, _LOG.pack(self.slot, entry[1]))

    def cut(self, batch: Batch, offset: int) -> None:
        """Forget the entries after `offset`: the caller puts right what they changed."""
        gap = False
        while self._entries and self._entries[-1][1] > offset:
            entry = self._entries.pop()
            gap = entry[0] <= offset
            self._drop(batch, entry)
        while gap and self._entries:  # part of a joint entry stays, whose keys are gone: what is before is no use
            self._drop(batch, self._entries.pop())
        self.last = min(self.last, offset)

    def restart(self, batch: Batch, offset: int, *, copying: bool) -> None:
        """The slot is at `offset` without a log: at the beginning and the end of a copy."""
        while self._entries:
            self._drop(batch, self._entries.pop())
        self.last, self.copying = offset, copying
        if copying:
            self.history = []
        self.stage(batch)

    def erase(self, batch: Batch) -> None:
        """The node has nothing of the slot any more."""
        self.restart(batch, 0, copying=False)
        batch.delete(Table.SLOT, self._slot_key)

    # --- Reading ------------------------------------------------------------------------------------------------

    def keys_after(self, offset: int) -> Keys:
        """The keys that the stored entries after `offset` changed; more where entries are joint."""
        return self._keys_after(offset)[0]

    def _keys_after(self, offset: int) -> tuple[Keys, int]:
        """Those keys, and the last offset that was looked at."""
        found: dict[int, set[bytes]] = {}
        seen = offset
        start = _LOG.pack(self.slot, offset + 1)
        for key, row in self.store.scan(Table.SLOT_LOG, start, slot_range(self.slot)[1], _ALL):
            seen = _LOG.unpack(key)[1]
            for table, keys in _decode_log(unseal(key, row)).keys.items():
                found.setdefault(table, set()).update(keys)
        return {table: sorted(keys) for table, keys in found.items()}, seen

    def values(self, offset: int, also: Keys) -> tuple[int, dict[int, dict[bytes, bytes | None]], int]:
        """(the stored last offset, the values of everything changed after `offset` and of `also` as of then, their size).

        Raises DATA_DAMAGED.
        """
        while True:
            keys, seen = self._keys_after(offset)
            for table, more in also.items():
                keys[table] = sorted({*keys.get(table, ()), *more})
            wanted = [(Table(table), key) for table, names in keys.items() for key in names]
            slot_row, *found = self.store.get_many([(Table.SLOT, self._slot_key), *wanted])
            stored = _decode_slot(unseal(self._slot_key, slot_row)).last if slot_row else 0
            if stored <= seen:
                break  # else a commit came between reading the keys and the values
        rows: dict[int, dict[bytes, bytes | None]] = {}
        size = 0
        for (table, key), value in zip(wanted, found, strict=True):
            if value is not None:
                unseal(key, value)  # what is damaged here must not go on to others
            rows.setdefault(int(table), {})[key] = value
            size += len(key) + len(value or b"")
        return stored, rows, size
