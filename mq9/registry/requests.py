"""The bodies of the four agent commands: what is accepted, and what it becomes.

Types are strict where a field means something to the broker and free everywhere else: a registered body is the user's
own JSON and comes back as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mq9 import limits
from mq9.errors import error
from mq9.protocol.requests import bounded, decode
from mq9.registry.flatten import card_of, check_depth, tags_of
from mq9.registry.records import STATES

QUERY_TEXT_CHARS_MAX: Final = 64 * 1024  # longer is not a description of a need but a mistake
PAGE_MAX: Final = 1_000_000
LABEL_CHARS_MAX: Final = 128
STATUS_CHARS_MAX: Final = 64
MAILBOX_BYTES_MAX: Final = 512
HEARTBEAT_S_MAX: Final = 86_400
ANY_STATUS: Final = frozenset(("any", "all", "*"))
MODES: Final = ("auto", "keyword", "semantic", "hybrid")
URI_PREFIX: Final = "mq9://"

_body: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class AgentBody:
    """A REGISTER or REPORT body, looked at once. None stands for: not said."""

    name: str
    mailbox: str
    mailbox_uri: str
    named: bool  # `name` was given; else it stands for whatever agent has this mailbox
    ttl_s: int | None
    heartbeat_s: int | None
    state: str | None
    status: str | None
    label: str
    tags: tuple[str, ...]
    fields: dict[str, Any]


class DiscoverRequest(msgspec.Struct):
    """AGENT.DISCOVER. Filters combine (AND). `status` is one status, several, or `any`."""

    text: str | None = None
    semantic: str | None = None
    limit: int | None = None
    page: int | None = None
    tags: list[str] | str | None = None
    status: list[str] | str | None = None
    name: str | None = None
    prefix: str | None = None
    state: str | None = None
    version: str | int | None = None
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class Discover:
    """A DISCOVER, checked. `page` counts from 0 here. Empty filters admit everything that is available."""

    query: str
    mode: str  # list, keyword, semantic or hybrid
    limit: int
    page: int
    tags: frozenset[str]
    statuses: frozenset[str]
    name: str
    prefix: str
    state: str
    version: str

    @property
    def filtered(self) -> bool:
        """Whether any filter but that of availability is on."""
        return bool(self.tags or self.statuses or self.name or self.prefix or self.state or self.version)


_discover: Final = msgspec.json.Decoder(DiscoverRequest)


def parse_agent(payload: bytes, *, naming_only: bool = False) -> AgentBody:
    """A REGISTER, REPORT or UNREGISTER body. `naming_only`: nothing but the name matters (UNREGISTER)."""
    if not payload.strip():
        raise error("PAYLOAD_EMPTY")
    if len(payload) > limits.AGENT_RECORD_BYTES_MAX:
        raise error("PAYLOAD_TOO_LARGE", size=len(payload), limit=limits.AGENT_RECORD_BYTES_MAX)
    fields = decode_object(payload)
    check_depth(fields)
    name, mailbox = _string(fields, "name"), _string(fields, "mailbox")
    uri = mailbox
    if mailbox.startswith(URI_PREFIX):
        mailbox = mailbox[len(URI_PREFIX) :].partition("/")[2]
    named = bool(name)
    name = name or mailbox
    if not name:
        raise error("AGENT_NAME_EMPTY")
    _check_name("name", name, limits.AGENT_NAME_BYTES_MAX)
    if naming_only:
        return AgentBody(name, mailbox or name, uri, named, None, None, None, None, "", (), fields)
    mailbox = mailbox or name
    _check_name("mailbox", mailbox, MAILBOX_BYTES_MAX)
    state = _string(fields, "state").lower() or None
    if state is not None and state not in STATES:
        # `state` is a common word: an agent's own use of it is not ours to refuse.
        state = None
    return AgentBody(
        name=name,
        mailbox=mailbox,
        mailbox_uri=uri or mailbox,
        named=named,
        ttl_s=_seconds(fields, "ttl", limits.TTL_S_MAX),
        heartbeat_s=_seconds(fields, "heartbeat", HEARTBEAT_S_MAX),
        state=state,
        status=status if isinstance(status := fields.get("status"), str) and 0 < len(status) <= STATUS_CHARS_MAX else None,
        label=_label(fields),
        tags=tags_of(fields),
        fields=fields,
    )


def decode_object(payload: bytes) -> dict[str, Any]:
    """The JSON object in `payload`; raises INVALID_REQUEST."""
    try:
        return _body.decode(payload)
    except msgspec.ValidationError:
        raise error("INVALID_REQUEST", reason="the body must be a JSON object") from None
    except (msgspec.MsgspecError, UnicodeError) as failure:
        raise error("INVALID_REQUEST", reason=f"the body is not JSON: {failure}"[:300]) from None
    except RecursionError:
        raise error("INVALID_REQUEST", reason="JSON is nested too deep") from None


def parse_discover(payload: bytes) -> Discover:
    """A DISCOVER body; empty is `{}`. Raises INVALID_REQUEST naming the field."""
    asked = decode(_discover, payload)
    for field in ("text", "semantic"):
        if len(getattr(asked, field) or "") > QUERY_TEXT_CHARS_MAX:
            raise error("INVALID_REQUEST", reason=f"{field} is longer than {QUERY_TEXT_CHARS_MAX} characters")
    semantic, text = (asked.semantic or "").strip(), (asked.text or "").strip()
    name, prefix = (asked.name or "").strip(), (asked.prefix or "").strip()
    if name.endswith("*"):
        name, prefix = "", name[:-1]
    return Discover(
        query=semantic or text,
        mode=_mode(asked.mode, semantic, text),
        limit=bounded("limit", asked.limit, limits.DISCOVER_LIMIT_DEFAULT, 1, limits.DISCOVER_LIMIT_MAX),
        page=bounded("page", asked.page, 1, 1, PAGE_MAX) - 1,
        tags=frozenset(tag.lower() for tag in _words("tags", asked.tags)),
        statuses=frozenset(status.lower() for status in _words("status", asked.status)),
        name=name,
        prefix=prefix,
        state=(asked.state or "").strip().lower(),
        version=str(asked.version).strip() if asked.version is not None else "",
    )


def _mode(asked: str | None, semantic: str, text: str) -> str:
    mode = (asked or "auto").lower()
    if mode not in MODES:
        raise error("INVALID_REQUEST", reason=f"mode must be one of {', '.join(MODES)}")
    if not semantic and not text:
        return "list"
    if mode != "auto":
        return mode
    return "hybrid" if semantic else "keyword"


def _words(field: str, value: list[str] | str | None) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value or []
    if len(parts) > limits.TAGS_MAX:
        raise error("INVALID_REQUEST", reason=f"more than {limits.TAGS_MAX} {field}")
    return [word for part in parts if (word := part.strip())]


def _string(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise error("INVALID_REQUEST", reason=f"{key} must be a string")
    return value.strip()


def _check_name(field: str, value: str, bytes_max: int) -> None:
    if len(value.encode()) > bytes_max:
        raise error("INVALID_REQUEST", reason=f"{field} is longer than {bytes_max} bytes")
    if not value.isprintable():
        raise error("INVALID_REQUEST", reason=f"{field} holds characters that cannot be printed")


def _seconds(fields: dict[str, Any], key: str, most: int) -> int | None:
    """A number of seconds; 0 is "none". An agent's own object of that name (A2A has no such field) is left alone."""
    value = fields.get(key)
    if value is None or isinstance(value, (dict, list)):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise error("INVALID_REQUEST", reason=f"{key} must be a whole number of seconds from 0 to {most}")
    return value


def _label(fields: dict[str, Any]) -> str:
    """What the author calls this version: `version` of the body, else of its card."""
    for source in (fields, card_of(fields) or {}):
        value = source.get("version")
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value).strip()[:LABEL_CHARS_MAX]
    return ""


def status_admits(statuses: frozenset[str], status: str) -> bool:
    """Whether a status filter lets `status` through."""
    return bool(statuses & ANY_STATUS) or status.lower() in statuses
