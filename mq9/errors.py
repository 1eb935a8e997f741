"""Every error a user can meet: one table, one exception tree.

The table is the contract between broker and clients. The broker answers `{"error": text, "code": code}`;
the client turns the code back into the same exception class. Texts that published clients assert on are
marked; change one and those clients break.

    Mq9Error                      anything below; has .code, .text, .retryable
      RequestError                the request is wrong; repeating it unchanged cannot help
        NotFound / AlreadyExists / Forbidden / DeliveryLost
      CapacityError               a limit or a full disk; may succeed later
      UnavailableError            the broker cannot answer now; retry, safely with the same mq9-msg-id
        RequestTimeout            no answer inside the deadline (raised by clients only)
      StorageError                the store failed; the broker stops acknowledging
      InternalError               a bug of ours

What the type decides in the broker: a RequestError or CapacityError is answered and the connection goes on;
a StorageError is answered and the node stops accepting writes; anything that is not an Mq9Error is a bug,
answered as INTERNAL and logged with its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

# All the v1 dialect has: the request is wrong, not allowed, about what is not there, at odds with how things stand now
# (waiting may help), or about what cannot be had here any more (waiting does not).
V1_NUMBERS: Final = frozenset((400, 403, 404, 409, 410))


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the table. `template` is a str.format text; `status` is the number of the v1 dialect."""

    code: str
    template: str
    status: int
    retryable: bool
    doc: str


class Mq9Error(Exception):
    """An error with a stable code. Build one with `error(code, ...)`, never by hand."""

    row: ClassVar[ErrorCode | None] = None

    def __init__(self, code: str, text: str, *, retryable: bool = False, status: int = 410) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.retryable = retryable
        self.status = status

    def __str__(self) -> str:
        return f"{self.text} ({self.code})"


class RequestError(Mq9Error):
    """The request is wrong as it stands."""


class NotFound(RequestError):
    """The mailbox, message or agent is not there (or has expired)."""


class AlreadyExists(RequestError):
    """The mailbox is there already."""


class Forbidden(RequestError):
    """The caller may not do this."""


class DeliveryLost(RequestError):
    """What was to be confirmed had been handed out by a broker that leads its mailbox no more: it is delivered again."""


class CapacityError(Mq9Error):
    """A limit was reached; the same request may succeed later."""


class UnavailableError(Mq9Error):
    """The broker cannot answer now; repeat the request."""


class RequestTimeout(UnavailableError):
    """No answer came inside the deadline; the request may or may not have happened."""


class StorageError(Mq9Error):
    """The store failed. Nothing that was waiting for it is acknowledged."""


class InternalError(Mq9Error):
    """A defect of the broker."""


_ROWS: tuple[tuple[type[Mq9Error], ErrorCode], ...] = (
    (
        RequestError,
        ErrorCode(
            "INVALID_REQUEST",
            "invalid request: {reason}",
            400,
            False,
            "The body is not a JSON object, or a field has the wrong type or range.",
        ),
    ),
    (
        RequestError,
        ErrorCode(
            "INVALID_ADDRESS",
            "invalid mail_address: {reason}",
            400,
            False,
            "The mailbox name breaks the naming rule. Clients assert on the prefix.",
        ),
    ),
    (
        RequestError,
        ErrorCode(
            "INVALID_HEADER",
            "invalid header {name}: {reason}",
            400,
            False,
            "An mq9-* header has a value of the wrong kind or range.",
        ),
    ),
    (
        RequestError,
        ErrorCode("UNKNOWN_COMMAND", "unknown command: {subject}", 404, False, "No command answers on this $mq9.AI subject."),
    ),
    (
        RequestError,
        ErrorCode(
            "PAYLOAD_EMPTY", "payload must not be empty", 400, False, "The command needs a body. Clients assert on the text."
        ),
    ),
    (
        RequestError,
        ErrorCode(
            "AGENT_NAME_EMPTY",
            "agent name must not be empty",
            400,
            False,
            "Neither `name` nor `mailbox` was given. Clients assert on the text.",
        ),
    ),
    (
        RequestError,
        ErrorCode(
            "PAYLOAD_TOO_LARGE",
            "payload too large: {size} bytes, limit {limit}",
            400,
            False,
            "The message is larger than the broker stores.",
        ),
    ),
    (
        NotFound,
        ErrorCode(
            "MAILBOX_NOT_FOUND",
            "mailbox {name} does not exist",
            404,
            False,
            "No such mailbox, or its TTL has run out. Clients assert on the text.",
        ),
    ),
    (
        NotFound,
        ErrorCode(
            "MESSAGE_NOT_FOUND",
            "message not found",
            404,
            False,
            "No such message, or it is deleted, replaced or expired. Clients assert on the text.",
        ),
    ),
    (
        NotFound,
        ErrorCode(
            "AGENT_NOT_FOUND", "agent not found", 404, False, "No such agent, or its TTL has run out. Clients assert on the text."
        ),
    ),
    (
        DeliveryLost,
        ErrorCode(
            "DELIVERY_LOST",
            "message {msg_id} is no longer handed out to the group: its mailbox moved to another broker, and it comes again",
            409,
            False,
            "In a cluster: the ACK came to a leader that does not know of the delivery. The message is delivered again.",
        ),
    ),
    (
        AlreadyExists,
        ErrorCode(
            "MAILBOX_EXISTS",
            "mailbox {name} already exists",
            409,
            False,
            "CREATE without exist_ok on a live name. Clients assert on the text.",
        ),
    ),
    (
        Forbidden,
        ErrorCode("FORBIDDEN", "not allowed: {reason}", 403, False, "The account may not do this, or the subject is reserved."),
    ),
    (
        CapacityError,
        ErrorCode(
            "MAILBOX_FULL",
            "mailbox {name} is full: {reason}",
            409,
            True,
            "The mailbox reached its message or byte limit; delete, acknowledge with TTLs, or raise the limit.",
        ),
    ),
    (
        CapacityError,
        ErrorCode(
            "LIMIT_EXCEEDED",
            "limit exceeded: {reason}",
            409,
            True,
            "A broker-wide limit (mailboxes, groups, waiting requests) was reached.",
        ),
    ),
    (
        CapacityError,
        ErrorCode(
            "STORAGE_FULL",
            "storage full",
            409,
            True,
            "The disk or the map is full. FETCH, ACK and DELETE still work; SEND works again by itself when there is room.",
        ),
    ),
    (
        UnavailableError,
        ErrorCode(
            "UNAVAILABLE",
            "unavailable: {reason}",
            409,
            True,
            "The broker is draining, or in a cluster the owner is not known. Repeat the request.",
        ),
    ),
    (
        RequestTimeout,
        ErrorCode(
            "TIMEOUT",
            "no answer within {seconds:.3g} s",
            409,
            True,
            "Raised by clients: the deadline passed. Safe to repeat with the same mq9-msg-id.",
        ),
    ),
    (
        StorageError,
        ErrorCode(
            "STORAGE_FAILED",
            "storage failed: {reason}",
            410,
            False,
            "A write or fsync failed. The broker stops accepting writes; see its log.",
        ),
    ),
    (
        StorageError,
        ErrorCode(
            "DATA_DAMAGED",
            "damaged data: {reason}",
            410,
            False,
            "A stored record fails its checksum. It is never served; run `mq9 verify`.",
        ),
    ),
    (InternalError, ErrorCode("INTERNAL", "internal error", 410, False, "A defect of the broker; its log has the traceback.")),
)

CODES: dict[str, ErrorCode] = {row.code: row for _, row in _ROWS}
_CLASSES: dict[str, type[Mq9Error]] = {row.code: kind for kind, row in _ROWS}


def error(code: str, **fields: Any) -> Mq9Error:
    """The exception for `code`, its text made from the table's template and `fields`."""
    row = CODES[code]
    return _CLASSES[code](code, row.template.format(**fields), retryable=row.retryable, status=row.status)


def from_reply(code: str | None, text: str) -> Mq9Error:
    """The exception for an error reply. An unknown or absent code (another broker) becomes a plain RequestError."""
    row = CODES.get(code or "")
    if row is None:
        return RequestError(code or "UNKNOWN", text)
    return _CLASSES[row.code](row.code, text, retryable=row.retryable, status=row.status)
