"""Consumer offset floors: below a floor, a consumer has confirmed every message of a mailbox's tier.

Floors only grow: a command that is repeated, or overtaken by a later one, does no harm. A floor is taken from whoever
names the slot's epoch as it is, which keeps out a former primary whose last confirmations were never replicated.

    offsets: slot u16 | mailbox u64 | consumer u32 | tier u8  ->  floor u64
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from meta_service.disk import OFFSETS, Disk, Snapshot
from mq9 import limits
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

_KEY = struct.Struct(">HQIB")
_MAILBOX = struct.Struct(">HQ")
_SLOT = struct.Struct(">H")
_FLOOR = struct.Struct(">Q")


def commit(disk: Disk, slots: Mapping[int, meta.Slot], request: meta.CommitOffsetsRequest) -> pb.CommandResult:
    """Raise floors. The answer names the slots whose epoch is another, of which nothing was taken."""
    result = pb.CommandResult(outcome=meta.OK)
    for each in request.slots:
        slot = slots.get(each.slot)
        if slot is None or slot.epoch != each.epoch:
            result.stale_slots.append(each.slot)
            continue
        for mailbox in each.forget:
            start = _MAILBOX.pack(each.slot, mailbox)
            disk.delete_range(OFFSETS, start, start + b"\xff" * (_KEY.size - _MAILBOX.size + 1))
        for floor in each.floors:
            key = _KEY.pack(each.slot, floor.mailbox, floor.consumer, floor.tier & 0xFF)
            known = disk.get(OFFSETS, key)
            if known is None or _FLOOR.unpack(known)[0] < floor.floor:
                disk.put(OFFSETS, key, _FLOOR.pack(floor.floor))
    return result


def floors(snapshot: Snapshot, slot: int) -> Iterator[meta.Floor]:
    """All floors of a slot."""
    stop = _SLOT.pack(slot + 1) if slot < limits.META_SLOTS_MAX else None
    for key, value in snapshot.rows(OFFSETS, _SLOT.pack(slot), stop):
        _, mailbox, consumer, tier = _KEY.unpack(key)
        yield meta.Floor(mailbox=mailbox, consumer=consumer, tier=tier, floor=_FLOOR.unpack(value)[0])
