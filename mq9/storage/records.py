"""The bytes of a stored value: every value of every table is sealed with a version and a checksum.

    sealed = version u8 | crc32 u32 (little endian) | payload        crc32 covers the key and the payload

The key is inside the checksum so that a record found under a wrong key (a damaged tree page) is noticed too. LMDB has no
page checksums: a flipped bit is served silently unless the record itself can tell.

Changing the layout of a payload: raise the version of that record, keep the reader of the old one, and add a fixture of
the old bytes to tests/storage/fixtures. Records of the msgpack kind may grow at the end without a new version.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from zlib import crc32

from mq9.errors import error
from mq9.protocol.message import StoredMessage

VERSION: Final = 1
_SEAL: Final = struct.Struct("<BI")
_SEAL_BYTES: Final = _SEAL.size
_MESSAGE: Final = struct.Struct("<QQHHHH")  # create_ms, expires_ms, lengths of header, key, tags, reply
_MESSAGE_BYTES: Final = _MESSAGE.size


def seal(key: bytes, payload: bytes, version: int = VERSION) -> bytes:
    """The value to store under `key`."""
    return _SEAL.pack(version, crc32(payload, crc32(key))) + payload


def unseal(key: bytes, value: bytes, version: int = VERSION) -> bytes:
    """The payload stored under `key`. Raises DATA_DAMAGED when key and value do not belong together."""
    if len(value) < _SEAL_BYTES:
        raise error("DATA_DAMAGED", reason=f"record {key.hex()} is cut short")
    found, checksum = _SEAL.unpack_from(value)
    payload = value[_SEAL_BYTES:]
    if checksum != crc32(payload, crc32(key)):
        raise error("DATA_DAMAGED", reason=f"record {key.hex()} fails its checksum")
    if found != version:
        raise error("DATA_DAMAGED", reason=f"record {key.hex()} has version {found}, this program reads {version}")
    return payload


def pack_message(key: bytes, message: StoredMessage) -> bytes:
    """The sealed record of `message` under the row key `key`."""
    create_ms, expires_ms, header, mq9_key, tags, reply, payload = message
    head = _MESSAGE.pack(create_ms, expires_ms, len(header), len(mq9_key), len(tags), len(reply))
    return seal(key, b"".join((head, header, mq9_key, tags, reply, payload)))


def pack_plain_message(key: bytes, create_ms: int, header: bytes, reply: bytes, payload: bytes) -> bytes:
    """The same for a message without time to live, key and tags: most of them, and made for every one, so all in one go."""
    body = _MESSAGE.pack(create_ms, 0, len(header), 0, 0, len(reply)) + header + reply + payload
    return _SEAL.pack(VERSION, crc32(body, crc32(key))) + body


def message_size(message: StoredMessage) -> int:
    """The size of its sealed record, in bytes."""
    return _SEAL_BYTES + _MESSAGE_BYTES + sum(map(len, message[2:]))


def unpack_message(key: bytes, value: bytes) -> StoredMessage:
    """The inverse of `pack_message`; raises DATA_DAMAGED."""
    body = unseal(key, value)
    try:
        create_ms, expires_ms, header_len, key_len, tags_len, reply_len = _MESSAGE.unpack_from(body)
    except struct.error:
        raise error("DATA_DAMAGED", reason=f"message {key.hex()} is cut short") from None
    at = _MESSAGE_BYTES
    if not header_len:
        start = at + reply_len
        return StoredMessage(create_ms, expires_ms, b"", b"", b"", body[at:start], body[start:])
    header_end = at + header_len
    key_end = header_end + key_len
    tags_end = key_end + tags_len
    reply_end = tags_end + reply_len
    return StoredMessage(
        create_ms,
        expires_ms,
        body[at:header_end],
        body[header_end:key_end],
        body[key_end:tags_end],
        body[tags_end:reply_end],
        body[reply_end:],
    )


class MailboxState(NamedTuple):
    """What must survive of a mailbox's bookkeeping. Counts are of rows, expired but unreclaimed ones included."""

    last_id: int
    counts: tuple[int, int, int, int]  # rows of Table.MESSAGE by tier
    size: int  # bytes of their sealed records, delayed ones included
    delayed: int  # rows of Table.DELAYED
    last_ms: int  # create time of the newest message: create times never go back inside a mailbox
    address: bytes = b""  # the way back from an id to its mailbox


_STATE: Final = struct.Struct("<Q4QQQQ")


def pack_state(key: bytes, state: MailboxState) -> bytes:
    """The sealed STATE row."""
    head = _STATE.pack(state.last_id, *state.counts, state.size, state.delayed, state.last_ms)
    return seal(key, head + state.address)


def unpack_state(key: bytes, value: bytes) -> MailboxState:
    """The inverse of `pack_state`; raises DATA_DAMAGED."""
    body = unseal(key, value)
    last_id, c0, c1, c2, c3, size, delayed, last_ms = _STATE.unpack_from(body)
    return MailboxState(last_id, (c0, c1, c2, c3), size, delayed, last_ms, body[_STATE.size :])
