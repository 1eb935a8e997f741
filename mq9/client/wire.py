"""What the client puts into requests and reads out of replies: bytes and records, no IO.

Two forms of a FETCH reply exist. One JSON message with base64 payloads, which msgspec turns into records in about a
microsecond each; and a stream of raw NATS messages, which costs no base64 but one pass of nats-py (7 us) a message.
Measured with nats-py 2.16, microseconds a message, JSON / stream: 16 B 0.5 / 7; 1 KiB 2 / 7; 4 KiB 8 / 9;
16 KiB 27 / 17; 64 KiB 112 / 42. So small messages are asked for as JSON and large ones as a stream: see `ReplyForm`.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict

import msgspec

from mq9.client.message import Message, Priority
from mq9.errors import Mq9Error, error, from_reply

PREFIX: Final = "$mq9.AI."
STATUS: Final = "Status"  # where nats-py puts the number of a status line
NO_RESPONDERS: Final = "503"
STREAM_END: Final = "204"

Payload = bytes | bytearray | memoryview | str | dict[str, Any] | list[Any]

# A subject is one line of tokens; what these would do to it must not reach the socket.
_UNSAFE: Final = re.compile(r"[\s*>\x00-\x1f\x7f]|^\.|\.$|\.\.")
_UNSAFE_HEADER: Final = re.compile(r"[\r\n\x00]")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# Headers that became fields of Message, or were orders to the broker; the rest are the sender's own.
_FIELDS: Final = frozenset({
    "mq9-msg-id", "mq9-priority", "mq9-create-time", "mq9-deliveries", "mq9-expires-at", "mq9-key", "mq9-tags", "mq9-delay",
    "mq9-ttl", "mq9-count", "mq9-reply",
})  # fmt: skip


class SendOptions(TypedDict, total=False):
    """What a SEND may ask for. `delay` and `ttl` are seconds. `msg_id` is the idempotency id: two sends with the same one
    store one message; the client makes one for each call that gives none."""

    priority: Priority | str
    key: str | None
    delay: float | None
    ttl: float | None
    tags: Iterable[str] | None
    headers: Mapping[str, str] | None
    msg_id: str | None


class MailboxOptions(TypedDict, total=False):
    """What CREATE may ask for beyond name and TTL. `ack_wait` is seconds; the rest as in docs/protocol.md."""

    desc: str | None
    public: bool | None
    exist_ok: bool | None
    storage: str | None
    max_deliver: int | None
    dead_letter: str | None
    ack_wait: float | None


class FetchOptions(TypedDict, total=False):
    """Where a FETCH starts and what it picks. `from_time` is seconds or milliseconds since 1970; `stream` picks the form
    of the reply, None lets the client choose; `hold` leaves out what this connection was handed before."""

    deliver: str
    from_time: float | None
    from_id: int | None
    force_deliver: bool
    tags: Iterable[str] | None
    ack_wait_ms: int | None
    hold: bool | None
    stream: bool | None


class DiscoverFilters(TypedDict, total=False):
    """What DISCOVER may filter by besides its text."""

    tags: Iterable[str] | None
    status: str | None


def check_options(options: Mapping[str, object], kind: type) -> None:
    """Raise TypeError for a keyword that `kind`, a TypedDict, does not have: what a misspelt argument of a function does."""
    for name in options:
        if name not in kind.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")


def subject(command: str, *tail: str) -> str:
    """`$mq9.AI.` + command + tail. Raises INVALID_ADDRESS for what no subject can carry; the broker judges the rest."""
    for token in tail:
        if not token or _UNSAFE.search(token):
            raise error("INVALID_ADDRESS", reason="empty, or with a character or dot that no subject can carry")
    return ".".join((PREFIX + command, *tail))


def json_body(fields: Mapping[str, object]) -> bytes:
    """A request body: `fields` as JSON, without those that are None."""
    return _encode({name: value for name, value in fields.items() if value is not None})


def _plain(value: object) -> object:
    """What msgspec does not encode by itself: subclasses (a Mailbox is a `str`) and mappings that are no dict."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise error("INVALID_REQUEST", reason=f"a {type(value).__name__} has no form in JSON")


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode


def payload_bytes(payload: Payload) -> bytes:
    """Bytes as they are, text as UTF-8, anything else as JSON."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    return _encode(payload)


class IdSource:
    """Idempotency ids: unique over all clients, cheap, and rising, so that a store keeps those of one sender together."""

    __slots__ = ("_count", "_prefix")

    def __init__(self) -> None:
        self._prefix = f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)}"
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count:08x}"


def send_headers(options: SendOptions, msg_id: str) -> dict[str, str]:
    """The headers of a SEND. Raises INVALID_HEADER for what a header cannot carry."""
    check_options(options, SendOptions)
    headers = {"mq9-msg-id": options.get("msg_id") or msg_id}
    priority = options.get("priority")
    if priority is not None and priority != Priority.NORMAL:
        headers["mq9-priority"] = str(priority)
    if key := options.get("key"):
        headers["mq9-key"] = key
    for name in ("delay", "ttl"):
        if seconds := options.get(name):
            headers[f"mq9-{name}"] = _seconds(f"mq9-{name}", seconds)
    if tags := options.get("tags"):
        headers["mq9-tags"] = ",".join([tags] if isinstance(tags, str) else tags)
    headers.update(options.get("headers") or {})
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or _UNSAFE_HEADER.search(value):
            raise error("INVALID_HEADER", name=repr(name), reason="a name or value that no header can carry")
    return headers


def _seconds(name: str, value: object) -> str:
    """Seconds as the broker reads them: digits, at most milliseconds, no exponent."""
    if not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise error("INVALID_HEADER", name=name, reason="not a number of seconds")
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def reply_fields(data: bytes) -> dict[str, Any]:
    """The fields of a JSON reply. Raises the typed error that it carries."""
    try:
        fields = msgspec.json.decode(data)
    except msgspec.DecodeError:
        raise error("INVALID_REQUEST", reason="the reply is not JSON; is this an mq9 broker?") from None
    if not isinstance(fields, dict):
        raise error("INVALID_REQUEST", reason="the reply is not a JSON object; is this an mq9 broker?")
    if fields.get("error"):
        raise _failure(fields.get("error_code") or fields.get("code", ""), str(fields["error"]))
    return fields


# The older dialect, which a CREATE with `public` is answered in, has numbers for codes; where they do not say, `error_code`.
_BY_STATUS: Final = {
    400: "INVALID_REQUEST", 403: "FORBIDDEN", 404: "MAILBOX_NOT_FOUND", 409: "MAILBOX_EXISTS", 413: "PAYLOAD_TOO_LARGE",
    429: "LIMIT_EXCEEDED", 503: "UNAVAILABLE", 507: "STORAGE_FULL",
}  # fmt: skip


def _failure(code: object, text: str) -> Mq9Error:
    return from_reply(_BY_STATUS.get(code, str(code)) if isinstance(code, int) else str(code), text)


# --- Messages ---------------------------------------------------------------------------------------------------


class _Item(msgspec.Struct):
    """One message of a JSON reply whose payloads are all base64: what we ask for, and msgspec decodes by itself."""

    msg_id: int
    payload: bytes = b""
    payload_encoding: str = "base64"
    priority: Priority = Priority.NORMAL
    create_time: int = 0
    create_time_ms: int = 0
    headers: dict[str, str] = {}
    key: str | None = None
    tags: list[str] = []
    deliveries: int = 0
    expires_at: int | None = None


class _Items(msgspec.Struct):
    error: str = ""
    code: str | int = ""
    error_code: str = ""
    messages: list[_Item] = []


_items: Final = msgspec.json.Decoder(_Items)


def json_messages(data: bytes) -> list[Message]:
    """The messages of a JSON reply, whatever their encodings. Raises the typed error that it carries."""
    try:
        reply = _items.decode(data)
    except msgspec.MsgspecError:
        return [_lenient(item) for item in reply_fields(data).get("messages") or []]
    if reply.error:
        raise _failure(reply.error_code or reply.code, reply.error)
    if any(item.payload_encoding != "base64" for item in reply.messages):
        return [_lenient(item) for item in reply_fields(data)["messages"]]
    return [
        Message(
            item.msg_id, item.payload, item.priority, item.create_time or item.create_time_ms // 1000,
            item.create_time_ms or item.create_time * 1000, _own(item.headers), item.key or None, item.tags, item.deliveries,
            item.expires_at or 0,
        )
        for item in reply.messages
    ]  # fmt: skip


def _lenient(item: dict[str, Any]) -> Message:
    """One message of any broker. Without `payload_encoding` the payload is base64, as in the published SDK."""
    try:
        payload = item.get("payload") or ""
        raw = payload.encode() if item.get("payload_encoding") == "text" else base64.b64decode(payload, validate=True)
        seconds = int(item.get("create_time") or 0)
        return Message(
            int(item["msg_id"]), raw, Priority(item.get("priority") or "normal"), seconds,
            int(item.get("create_time_ms") or seconds * 1000), _own(item.get("headers") or {}), item.get("key") or None,
            list(item.get("tags") or []), int(item.get("deliveries") or 0), int(item.get("expires_at") or 0),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as failure:
        raise error("INVALID_REQUEST", reason=f"the reply holds a message of an unknown form: {failure!r}") from failure


def is_streamed(headers: Mapping[str, str] | None) -> bool:
    """Whether a NATS message is one message of a stream reply, rather than the end of it or a JSON reply."""
    return headers is not None and "mq9-msg-id" in headers


def streamed_message(headers: Mapping[str, str], payload: bytes) -> Message:
    """The message that one NATS message of a stream reply is."""
    created_ms = _integer(headers.get("mq9-create-time"))
    tags = headers.get("mq9-tags", "")
    return Message(
        _integer(headers["mq9-msg-id"]), payload, Priority(headers.get("mq9-priority", "normal")), created_ms // 1000, created_ms,
        _own(headers), headers.get("mq9-key") or None, [tag for each in tags.split(",") if (tag := each.strip())],
        _integer(headers.get("mq9-deliveries")), _integer(headers.get("mq9-expires-at")),
    )  # fmt: skip


def _integer(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _own(headers: Mapping[str, str]) -> dict[str, str]:
    """The sender's own headers."""
    return {name: value for name, value in headers.items() if name.lower() not in _FIELDS} if headers else {}


class ReplyForm:
    """Which form of reply to ask for, by the size of the messages a mailbox gave last: see the module for figures."""

    STREAM_FROM_BYTES: Final = 6 * 1024  # where the two forms cost the same
    MAILBOXES_MAX: Final = 1024  # remembered at once

    def __init__(self) -> None:
        self._large: dict[str, None] = {}

    def stream(self, mail_address: str) -> bool:
        return mail_address in self._large

    def learn(self, mail_address: str, messages: list[Message]) -> None:
        """Remember whether the messages of this mailbox are large; an empty batch says nothing."""
        if not messages:
            return
        if sum(len(message.payload) for message in messages) < self.STREAM_FROM_BYTES * len(messages):
            self._large.pop(mail_address, None)
            return
        if len(self._large) >= self.MAILBOXES_MAX:
            self._large.pop(next(iter(self._large)))
        self._large[mail_address] = None
