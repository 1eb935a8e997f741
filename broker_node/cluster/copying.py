"""Copying a whole slot to a replica, part by part, while the leader goes on writing.

The parts are read one after the other, each as the store is then, so together they are no state the slot ever had. The leader
then sends the present values of everything that changed after `begun_at`, and with them the copy is exact.
"""

from __future__ import annotations

from typing import Final

from broker_node.cluster.slot_log import SLOT_TABLES, encode, sequence_key, slot_range
from mq9.limits import COPY_BYTES, COPY_ROWS
from mq9.storage.interface import Store, Table
from mq9.storage.records import unseal
from mq9.v1 import peer_pb2 as peer

_AFTER: Final = b"\0"  # appended to a key: the least key that is greater


class Copy:
    """One copy on its way. `part` counts those sent."""

    __slots__ = ("_epoch", "_slot", "_start", "_store", "_table", "begun_at", "is_done", "number", "part")

    def __init__(self, number: int, slot: int, epoch: int, store: Store, begun_at: int) -> None:
        self.number = number
        self.begun_at = begun_at
        self.part = 0
        self.is_done = False
        self._slot = slot
        self._epoch = epoch
        self._store = store
        self._table = 0
        self._start = slot_range(slot)[0]

    def next_part(self) -> peer.CopyRows:
        """Read the next part. Raises DATA_DAMAGED when what is stored cannot be read."""
        rows: dict[int, dict[bytes, bytes]] = {}
        size = 0
        if self.part == 0:
            key = sequence_key(self._slot)
            value = self._store.get(Table.META, key)
            if value is not None:
                rows[Table.META] = {key: value}
        while size < COPY_BYTES and self._table < len(SLOT_TABLES):
            table = SLOT_TABLES[self._table]
            found = self._store.scan(table, self._start, slot_range(self._slot)[1], COPY_ROWS, COPY_BYTES - size)
            if not found:
                self._table += 1
                self._start = slot_range(self._slot)[0]
                continue
            rows.setdefault(int(table), {}).update(found)
            for key, value in found:
                unseal(key, value)  # what is damaged here must not go on to others
                size += len(key) + len(value)
            self._start = found[-1][0] + _AFTER
        self.is_done = self._table >= len(SLOT_TABLES)
        part = peer.CopyRows(
            slot=self._slot,
            epoch=self._epoch,
            copy=self.number,
            part=self.part,
            first=self.part == 0,
            last=self.is_done,
            rows=encode(rows),
        )
        self.part += 1
        return part
