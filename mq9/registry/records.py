"""What of an agent is on disk, and under which keys.

    AGENT         agent key                        the registration in force
    AGENT         agent key | 00 'R'               the last REPORT, when there was one since
    AGENT         agent key | 00 'V' | revision    former registrations, the newest VERSIONS_KEPT
    AGENT_VECTOR  agent key                        vectors, of at most two models

Agent names hold no zero byte, so the rows of an agent lie right behind its registration and before the next agent's.
Payloads are msgpack arrays, sealed by `storage/records.py`; fields may be added at their end without a new version.
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar

import msgspec

from mq9.errors import error
from mq9.storage.records import seal, unseal

VERSIONS_KEPT: Final = 8  # former registrations an agent can be pinned to

ACTIVE: Final = "active"
DEPRECATED: Final = "deprecated"
REVOKED: Final = "revoked"
STATES: Final = (ACTIVE, DEPRECATED, REVOKED)

Record = TypeVar("Record")

_REPORT: Final = b"\0R"
_VERSION: Final = b"\0V"
_U32: Final = struct.Struct(">I")


class Registration(msgspec.Struct, array_like=True, frozen=True):
    """One accepted REGISTER. Times are milliseconds since 1970; 0 where there is none.

    `revision` counts the different bodies of this agent from 1; `label` is what its author calls the version. `body` is the
    registered JSON object.
    """

    name: str
    mailbox: str
    mailbox_uri: str
    revision: int
    label: str
    created_ms: int
    updated_ms: int
    ttl_s: int
    heartbeat_s: int
    state: str
    status: str
    tags: tuple[str, ...]
    body: bytes


class Report(msgspec.Struct, array_like=True, frozen=True):
    """The last REPORT of an agent. `ttl_s` is the registration's unless the report set another."""

    last_seen_ms: int
    ttl_s: int
    heartbeat_s: int
    state: str
    status: str
    body: bytes


_registration: Final = msgspec.msgpack.Decoder(Registration)
_report: Final = msgspec.msgpack.Decoder(Report)
_encoder: Final = msgspec.msgpack.Encoder()


def report_key(agent: bytes) -> bytes:
    """AGENT key of the last report, from the agent's key."""
    return agent + _REPORT


def version_key(agent: bytes, revision: int) -> bytes:
    """AGENT key of a former registration."""
    return agent + _VERSION + _U32.pack(revision)


def version_range(agent: bytes) -> tuple[bytes, bytes]:
    """(start, stop) of an agent's former registrations."""
    return agent + _VERSION, agent + _VERSION + b"\xff\xff\xff\xff\xff"


def is_registration(key: bytes) -> bool:
    """Whether an AGENT row is a registration in force (the slot in front of the name may hold zero bytes)."""
    return b"\0" not in key[2:]


def is_report(key: bytes) -> bool:
    """Whether an AGENT row is a report."""
    return key.endswith(_REPORT) and b"\0" not in key[2 : -len(_REPORT)]


def pack(key: bytes, record: msgspec.Struct) -> bytes:
    """The sealed value of a row."""
    return seal(key, _encoder.encode(record))


def unpack_registration(key: bytes, value: bytes) -> Registration:
    """The registration of a row; raises DATA_DAMAGED."""
    return decode(_registration, key, value)


def unpack_report(key: bytes, value: bytes) -> Report:
    """The report of a row; raises DATA_DAMAGED."""
    return decode(_report, key, value)


def decode(decoder: msgspec.msgpack.Decoder[Record], key: bytes, value: bytes) -> Record:
    """The record sealed in a row; raises DATA_DAMAGED."""
    try:
        return decoder.decode(unseal(key, value))
    except msgspec.MsgspecError as failure:
        raise error("DATA_DAMAGED", reason=f"agent record {key.hex()}: {failure}") from failure
