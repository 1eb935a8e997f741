"""Replies: the JSON envelope, messages inside it, and which encoding a payload gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from mq9.errors import Mq9Error, error
from mq9.protocol.headers import header_dict
from mq9.protocol.message import StoredMessage
from mq9.protocol.priority import NAMES
from mq9.protocol.requests import FetchRequest, QueryRequest

TEXT: Final = "text"
BASE64: Final = "base64"
OK: Final = b'{"error":""}'

_NO_HEADERS: Final[dict[str, str]] = {}
_NO_BYTES: Final[list[int]] = []
_encode: Final = msgspec.json.Encoder().encode


class MessageReply(msgspec.Struct):
    """One message in a FETCH or QUERY reply. A payload of bytes is written as base64, one of str as it is.

    Times: create_time and expires_at are seconds since 1970, create_time_ms milliseconds. `header` is the sender's whole
    header block, byte by byte, in text replies only.
    """

    msg_id: int
    payload: str | bytes
    payload_encoding: str
    priority: str
    create_time: int
    create_time_ms: int
    headers: dict[str, str]
    deliveries: int
    header: list[int] | UnsetType = UNSET
    key: str | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    expires_at: int | UnsetType = UNSET
    reply: str | UnsetType = UNSET


class MessagesReply(msgspec.Struct):
    """A FETCH or QUERY reply."""

    error: str
    messages: list[MessageReply]


def message_reply(tier: int, msg_id: int, message: StoredMessage, deliveries: int, encoding: str) -> MessageReply:
    """`message` as it appears in a reply. A payload that is not UTF-8 is base64 whatever `encoding` says."""
    create_ms, expires_ms, header, key, tags, reply, raw = message
    payload: str | bytes = raw
    if encoding == TEXT:
        try:
            payload = raw.decode()
        except UnicodeDecodeError:
            encoding_used = BASE64
        else:
            encoding_used = TEXT
    else:
        encoding_used = BASE64
    out = MessageReply(msg_id, payload, encoding_used, NAMES[tier], create_ms // 1000, create_ms, _NO_HEADERS, deliveries)
    if header:
        out.headers = header_dict(header)
    if encoding == TEXT:
        out.header = list(header) if header else _NO_BYTES
    if key:
        out.key = key.decode("utf-8", "replace")
    if tags:
        out.tags = tags.decode("utf-8", "replace").split(",")
    if expires_ms:
        out.expires_at = expires_ms // 1000
    if reply:
        out.reply = reply.decode("utf-8", "replace")
    return out


def messages_reply(found: Iterable[tuple[int, int, StoredMessage, int]], encoding: str) -> bytes:
    """The JSON reply for (tier, msg_id, message, deliveries) items in their order."""
    return _encode(MessagesReply("", [message_reply(*item, encoding) for item in found]))


def success(**fields: Any) -> bytes:
    """`{"error":"", ...}`."""
    return _encode({"error": "", **fields})


def failure(problem: Mq9Error, **fields: Any) -> bytes:
    """The error envelope; `fields` are what the command's success reply would carry, emptied."""
    return _encode({"error": problem.text, "code": problem.code, **fields})


def fetch_encoding(request: FetchRequest, pinned: str) -> str:
    """The payload encoding of a FETCH reply. `pinned` is the server's setting.

    A body that looks like an official SDK's gets base64, because that is what all of them decode: a boolean force_deliver,
    whole numbers for num_msgs and max_wait_ms, and no explicit null for from_time. No command-line tool and no example in
    the documentation sends such a body; those get text.
    """
    config = request.config
    asked = request.encoding or (config.encoding if config is not None else None)
    if asked:
        return _checked(asked)
    if pinned != "auto":
        return pinned
    like_an_sdk = (
        isinstance(request.force_deliver, bool)
        and config is not None
        and isinstance(config.num_msgs, int)
        and isinstance(config.max_wait_ms, int)
        and request.from_time is not None
    )
    return BASE64 if like_an_sdk else TEXT


def query_encoding(request: QueryRequest, body: bytes, client_name: str, pinned: str) -> str:
    """The payload encoding of a QUERY reply: text for an empty body, an explicit null, or the NATS command-line tool."""
    if isinstance(request.encoding, str) and request.encoding:
        return _checked(request.encoding)
    if pinned != "auto":
        return pinned
    has_null = any(getattr(request, name) is None for name in request.__struct_fields__)
    return TEXT if not body.strip() or has_null or client_name.startswith("NATS CLI") else BASE64


def _checked(encoding: str) -> str:
    if encoding not in (TEXT, BASE64):
        raise error("INVALID_REQUEST", reason="encoding must be text or base64")
    return encoding
