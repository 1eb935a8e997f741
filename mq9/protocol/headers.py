"""The mq9-* headers of a SEND, read straight from the NATS header block."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mq9.errors import error
from mq9.limits import (
    DELAY_S_MAX,
    KEY_BYTES_MAX,
    MSG_ID_HEADER_BYTES_MAX,
    TAG_BYTES_MAX,
    TAGS_MAX,
    TTL_S_MAX,
)
from mq9.protocol.priority import NAMES, NORMAL, tier_of

# One pass over the block finds just our headers; the first of a repeated header wins, as in every NATS client.
_OURS: Final = re.compile(rb"(?i)\r\nmq9-(priority|key|delay|ttl|tags|msg-id)[ \t]*:[ \t]*([^\r\n]*)")
_ANY: Final = re.compile(rb"\r\n([^:\r\n]+?)[ \t]*:[ \t]*([^\r\n]*)")
_MSG_ID_LINE: Final = re.compile(rb"(?i)\r\nmq9-msg-id[ \t]*:[^\r\n]*")


class SendOptions(NamedTuple):
    """What the headers of a SEND ask for. Empty bytes and zero mean: not set."""

    tier: int = NORMAL
    key: bytes = b""
    delay_ms: int = 0
    ttl_ms: int = 0
    tags: bytes = b""  # comma-joined, trimmed, no empty ones
    idempotency_id: bytes = b""


NO_OPTIONS: Final = SendOptions()


def parse_send_headers(block: bytes) -> SendOptions:
    """The options in a header block (empty block: none). Raises INVALID_HEADER."""
    found: dict[bytes, bytes] = {}
    for name, value in _OURS.findall(block):
        found.setdefault(name.lower(), value.rstrip(b" \t"))
    if not found:
        return NO_OPTIONS
    key = found.get(b"key", b"")
    if len(key) > KEY_BYTES_MAX:
        raise error("INVALID_HEADER", name="mq9-key", reason=f"longer than {KEY_BYTES_MAX} bytes")
    idempotency_id = found.get(b"msg-id", b"")
    if len(idempotency_id) > MSG_ID_HEADER_BYTES_MAX:
        raise error("INVALID_HEADER", name="mq9-msg-id", reason=f"longer than {MSG_ID_HEADER_BYTES_MAX} bytes")
    return SendOptions(
        tier_of(found[b"priority"]) if b"priority" in found else NORMAL,
        key,
        _milliseconds("mq9-delay", found.get(b"delay", b""), DELAY_S_MAX),
        _milliseconds("mq9-ttl", found.get(b"ttl", b""), TTL_S_MAX),
        _tags(found[b"tags"]) if b"tags" in found else b"",
        idempotency_id,
    )


def _milliseconds(name: str, value: bytes, most_s: int) -> int:
    """Seconds, whole or decimal, as milliseconds."""
    if not value:
        return 0
    # float() takes more than a header should: "nan", "1_0", "infinity".
    if not re.fullmatch(rb"\d{1,12}(?:\.\d{1,9})?", value):
        raise error("INVALID_HEADER", name=name, reason="not a number of seconds")
    milliseconds = round(float(value) * 1000)
    if milliseconds > most_s * 1000:
        raise error("INVALID_HEADER", name=name, reason=f"more than {most_s} seconds")
    return milliseconds


def _tags(value: bytes) -> bytes:
    tags = [tag for tag in (part.strip() for part in value.split(b",")) if tag]
    if len(tags) > TAGS_MAX:
        raise error("INVALID_HEADER", name="mq9-tags", reason=f"more than {TAGS_MAX} tags")
    if any(len(tag) > TAG_BYTES_MAX for tag in tags):
        raise error("INVALID_HEADER", name="mq9-tags", reason=f"a tag is longer than {TAG_BYTES_MAX} bytes")
    return b",".join(tags)


def header_dict(block: bytes) -> dict[str, str]:
    """All headers of a block by their names as sent; of a repeated one the first. Undecodable bytes are replaced."""
    headers: dict[str, str] = {}
    for name, value in _ANY.findall(block):
        headers.setdefault(name.decode("utf-8", "replace"), value.rstrip(b" \t").decode("utf-8", "replace"))
    return headers


def without_idempotency_id(block: bytes) -> bytes:
    """The block less its mq9-msg-id: two sends of the same content differ in it, and are still the same content."""
    return _MSG_ID_LINE.sub(b"", block)


def delivery_header(stored: bytes, msg_id: int, tier: int, create_ms: int, extra: bytes = b"") -> bytes:
    """The header block of a message that is delivered raw: the sender's headers, then ours, which win over any of the
    same name that the sender made up. `extra`: lines of ours besides the usual ones, each with its CRLF."""
    kept = _kept_lines(stored) if stored else b""
    return _DELIVERY % (kept, msg_id, _NAMES[tier], create_ms, extra)


def _kept_lines(stored: bytes) -> bytes:
    lines = (f"{name}: {value}\r\n" for name, value in header_dict(stored).items() if name.lower() not in _DELIVERED)
    return "".join(lines).encode()


_DELIVERY: Final = b"NATS/1.0\r\n%bmq9-msg-id: %d\r\nmq9-priority: %b\r\nmq9-create-time: %d\r\n%b\r\n"
_NAMES: Final = tuple(name.encode() for name in NAMES)


_DELIVERED: Final = frozenset(
    {"mq9-msg-id", "mq9-priority", "mq9-create-time", "mq9-deliveries", "mq9-expires-at", "mq9-reply", "mq9-count"}
)


def dead_letter_header(stored: bytes, origin: bytes, reason: str, deliveries: int, msg_id: int) -> bytes:
    """The header block of a message in a dead-letter mailbox: the sender's headers, then where it comes from and why."""
    kept = stored[:-2] if stored else b"NATS/1.0\r\n"
    return (
        kept
        + (
            f"mq9-dead-letter-from: {origin.decode('utf-8', 'replace')}\r\nmq9-dead-letter-reason: {reason}\r\n"
            f"mq9-dead-letter-deliveries: {deliveries}\r\nmq9-dead-letter-original-id: {msg_id}\r\n\r\n"
        ).encode()
    )
