"""Keys: how rows are named, so that the order of keys is the order things are read in.

Everything is big endian because LMDB compares bytes. A mailbox id is `slot u16 << 48 | sequence`: all rows of a slot lie
together in every table, so a slot can be copied to another broker as a few ranges. A broker that is in no cluster reclaims
all slots together: its EXPIRY keys have slot 0.

    mailbox definition   MAILBOX   slot u16 | address
    message              MESSAGE   mailbox u64 | tier u8 | msg_id u64
    what expires when    EXPIRY    slot u16 | time_ms u64 | kind u8 | what
    ...                  (the others: see the functions)
"""

from __future__ import annotations

import struct
from enum import IntEnum
from hashlib import blake2b
from typing import Final
from zlib import crc32

from mq9.errors import error
from mq9.limits import SLOTS

TIERS: Final = 4  # critical, urgent, normal, low
SEQUENCE_BITS: Final = 48
FORMAT_KEY: Final = b"format"  # META: msgpack {version, slots}
SEQUENCE_KEY: Final = b"mailbox_sequence"  # META: u64 last mailbox sequence given out, u64 live mailboxes; see sequence_key

_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
_U32: Final = struct.Struct(">I")
_EXPIRY: Final = struct.Struct(">HQB")
_EXPIRY_STOP: Final = struct.Struct(">HQ")
_MESSAGE: Final = struct.Struct(">QBQ")
_DELAYED: Final = struct.Struct(">QQQ")
_ACKED: Final = struct.Struct(">QIBQ")
_DIGEST_BYTES: Final = 16

pack_u64 = _U64.pack
message_key = _MESSAGE.pack  # (mailbox, tier, msg_id)
delayed_key = _DELAYED.pack  # (mailbox, due_ms, sequence)
acked_key = _ACKED.pack  # (mailbox, group, tier, low)


class ExpiryKind(IntEnum):
    """What an EXPIRY row is about. Numbers are on disk: append, never renumber."""

    MESSAGE = 1  # mailbox u64 | tier u8 | msg_id u64
    MAILBOX = 2  # mailbox u64 | slot u16 | address
    DEDUP = 3  # the DEDUP key


def _unpack(form: struct.Struct, key: bytes) -> tuple[int, ...]:
    try:
        return form.unpack(key)
    except struct.error:
        raise error("DATA_DAMAGED", reason=f"key {key.hex()} has the wrong length") from None


def unpack_message_key(key: bytes) -> tuple[int, int, int]:
    """(mailbox, tier, msg_id) of a MESSAGE key. This and the next three raise DATA_DAMAGED."""
    mailbox, tier, msg_id = _unpack(_MESSAGE, key)
    return mailbox, tier, msg_id


def unpack_delayed_key(key: bytes) -> tuple[int, int, int]:
    """(mailbox, due_ms, sequence) of a DELAYED key."""
    mailbox, due_ms, sequence = _unpack(_DELAYED, key)
    return mailbox, due_ms, sequence


def unpack_acked_key(key: bytes) -> tuple[int, int, int, int]:
    """(mailbox, group, tier, low) of an ACKED key."""
    mailbox, group, tier, low = _unpack(_ACKED, key)
    return mailbox, group, tier, low


def slot_of(name: bytes, slots: int = SLOTS) -> int:
    """The slot a mailbox address or agent name belongs to."""
    return crc32(name) % slots


def mailbox_key(address: bytes, slot: int | None = None) -> bytes:
    """MAILBOX key of an address. `slot`: of a cluster with a number of slots of its own."""
    return _U16.pack(slot_of(address) if slot is None else slot) + address


agent_key = mailbox_key  # AGENT and AGENT_VECTOR key of an agent name: the same form


def sequence_key(slot: int | None) -> bytes:
    """META key of what is counted of mailboxes: by slot in a cluster, together (None) outside one."""
    return SEQUENCE_KEY if slot is None else SEQUENCE_KEY + _U16.pack(slot)


def slot_range(slot: int | None) -> tuple[bytes, bytes]:
    """(start, stop) of every row of a slot, in any table but META; of all slots when it is None."""
    return (b"", b"\xff" * 9) if slot is None else (_U16.pack(slot), _U16.pack(slot + 1))


def mailbox_id(address: bytes, sequence: int, slot: int | None = None) -> int:
    """The id of the mailbox that was the `sequence`-th made here. `slot` as for `mailbox_key`."""
    return (slot_of(address) if slot is None else slot) << SEQUENCE_BITS | sequence


def key_key(mailbox: int, mq9_key: bytes) -> bytes:
    """KEY key: digests, because a user's key may be longer than LMDB takes."""
    return _U64.pack(mailbox) + blake2b(mq9_key, digest_size=_DIGEST_BYTES).digest()


def dedup_key(mailbox: int, idempotency_id: bytes) -> bytes:
    """DEDUP key. Short ids stand as they are: ids that share a prefix then share pages, which is cheaper to write."""
    if len(idempotency_id) <= 64:
        return _U64.pack(mailbox) + b"\0" + idempotency_id
    return _U64.pack(mailbox) + b"\1" + blake2b(idempotency_id, digest_size=_DIGEST_BYTES).digest()


def group_key(mailbox: int, name: bytes) -> bytes:
    """GROUP key."""
    return _U64.pack(mailbox) + name


def expiry_key(slot: int, time_ms: int, kind: int, what: bytes) -> bytes:
    """EXPIRY key."""
    return _EXPIRY.pack(slot, time_ms, kind) + what


def unpack_expiry_key(key: bytes) -> tuple[int, int, bytes]:
    """(time_ms, kind, what) of an EXPIRY key."""
    _, time_ms, kind = _unpack(_EXPIRY, key[: _EXPIRY.size])
    return time_ms, kind, key[_EXPIRY.size :]


def expired_range(slot: int, now_ms: int) -> tuple[bytes, bytes]:
    """(start, stop) of what of a slot has expired by `now_ms`."""
    return _U16.pack(slot), _EXPIRY_STOP.pack(slot, now_ms + 1)


def key_row(tier: int, msg_id: int) -> bytes:
    """Payload of a KEY row."""
    return bytes((tier,)) + _U64.pack(msg_id)


def unpack_key_row(payload: bytes) -> tuple[int, int]:
    """(tier, msg_id) of a KEY row's payload."""
    return payload[0], _U64.unpack_from(payload, 1)[0]


def unpack_u64(payload: bytes) -> int:
    """The number of a DEDUP, ACKED or sequence row's payload."""
    return _unpack(_U64, payload)[0]


def mailbox_range(mailbox: int) -> tuple[bytes, bytes]:
    """(start, stop) of every row of a mailbox, in any table whose key begins with its id."""
    return _U64.pack(mailbox), _U64.pack(mailbox + 1)


def tier_range(mailbox: int, tier: int, after_id: int, until_id: int) -> tuple[bytes, bytes]:
    """(start, stop) of the messages of a tier with after_id < msg_id <= until_id."""
    return _MESSAGE.pack(mailbox, tier, after_id + 1), _MESSAGE.pack(mailbox, tier, until_id + 1)


def acked_range(mailbox: int, group: int) -> tuple[bytes, bytes]:
    """(start, stop) of a group's ACKED rows."""
    prefix = _U64.pack(mailbox)
    return prefix + _U32.pack(group), prefix + _U32.pack(group + 1)
