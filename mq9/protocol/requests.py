"""The JSON bodies of the commands: their fields, types and ranges.

Types are strict (a number in quotes is an error), unknown fields are ignored, and null means absent; the few places
where a client's explicit null tells something keep it apart as UNSET versus None.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from mq9 import limits
from mq9.errors import error

Body = TypeVar("Body", bound=msgspec.Struct)


class CreateRequest(msgspec.Struct):
    """MAILBOX.CREATE. `ttl` is seconds; 0, null or absent: the server's default."""

    name: str | None = None
    ttl: int | None = None
    desc: str | None = None
    public: bool | UnsetType | None = UNSET
    exist_ok: bool | None = None
    storage: str | None = None
    max_deliver: int | None = None
    dead_letter: str | None = None
    ack_wait: float | None = None  # seconds


class FetchConfig(msgspec.Struct):
    """`config` of MSG.FETCH. num_msgs and max_wait_ms stay UNSET when absent: the encoding rule asks."""

    num_msgs: int | UnsetType | None = UNSET
    max_wait_ms: int | UnsetType | None = UNSET
    encoding: str | None = None
    ack_wait_ms: int | None = None
    stream: bool | None = None
    hold: bool | None = None  # ours: keep what this connection already leases instead of getting it again


class FetchRequest(msgspec.Struct):
    """MSG.FETCH."""

    group_name: str | None = None
    deliver: str | None = None
    from_time: float | UnsetType | None = UNSET
    from_id: int | None = None
    force_deliver: bool | UnsetType | None = UNSET
    tags: list[str] | str | None = None
    encoding: str | None = None
    config: FetchConfig | None = None


class AckRequest(msgspec.Struct):
    """MSG.ACK. `delay` is seconds and goes with nack."""

    group_name: str | None = None
    mail_address: str | None = None
    msg_id: int | None = None
    msg_ids: list[int] | None = None
    mode: str | None = None
    nack: bool | None = None
    delay: float | None = None


class QueryRequest(msgspec.Struct):
    """MSG.QUERY. Every field UNSET apart from None: an explicit null picks the encoding."""

    key: str | UnsetType | None = UNSET
    tags: list[str] | str | UnsetType | None = UNSET
    since: float | UnsetType | None = UNSET
    limit: int | UnsetType | None = UNSET
    encoding: str | UnsetType | None = UNSET


class ListRequest(msgspec.Struct):
    """MAILBOX.LS."""

    prefix: str | None = None
    limit: int | None = None
    after: str | None = None


create_decoder: Final = msgspec.json.Decoder(CreateRequest)
fetch_decoder: Final = msgspec.json.Decoder(FetchRequest)
ack_decoder: Final = msgspec.json.Decoder(AckRequest)
query_decoder: Final = msgspec.json.Decoder(QueryRequest)
list_decoder: Final = msgspec.json.Decoder(ListRequest)


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """The request in `body` (empty: all fields absent). Raises INVALID_REQUEST naming the field."""
    if len(body) > limits.JSON_BODY_BYTES_MAX:
        raise error("PAYLOAD_TOO_LARGE", size=len(body), limit=limits.JSON_BODY_BYTES_MAX)
    try:
        return decoder.decode(body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError) as failure:
        raise error("INVALID_REQUEST", reason=_reason(failure)) from None
    except RecursionError:
        raise error("INVALID_REQUEST", reason="JSON is nested too deep") from None


def _reason(failure: Exception) -> str:
    text = str(failure) if isinstance(failure, msgspec.MsgspecError) else "body is not UTF-8"
    return text[:300]


def milliseconds_since(moment: float) -> int:
    """A `from_time` or `since` as milliseconds since 1970: it is seconds, or milliseconds when it is 1e12 or more."""
    if not 0 <= moment < 1e16:
        raise error("INVALID_REQUEST", reason="time is out of range")
    return int(moment if moment >= 1e12 else moment * 1000)


def tag_list(tags: list[str] | str | None) -> tuple[bytes, ...]:
    """The tags of a filter, given as a list or a comma-joined string."""
    if not tags:
        return ()
    parts = tags.split(",") if isinstance(tags, str) else tags
    if len(parts) > limits.TAGS_MAX:
        raise error("INVALID_REQUEST", reason=f"more than {limits.TAGS_MAX} tags")
    return tuple(tag.strip().encode() for tag in parts if tag.strip())


def bounded(name: str, value: int | None, default: int, least: int, most: int) -> int:
    """`value` or the default; below `least` is an error, above `most` is taken as `most`."""
    if value is None:
        return default
    if value < least:
        raise error("INVALID_REQUEST", reason=f"{name} must be at least {least}")
    return min(value, most)


def given(value: Any) -> Any:
    """None for a field that was absent or null, else its value."""
    return None if value is UNSET else value
