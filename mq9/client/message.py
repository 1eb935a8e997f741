"""The records a client gets back.

`Mailbox`, `Receipt` and `Agents` are a `str`, an `int` and a `list` with more to tell: the published SDK returns the plain
ones, and programs compare, format and pass on what they get.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import msgspec

from mq9.errors import error

if TYPE_CHECKING:
    from mq9.client.consumer import Consumer


class Priority(StrEnum):
    """How urgent a message is; a mailbox is read in this order."""

    CRITICAL = "critical"
    URGENT = "urgent"
    NORMAL = "normal"
    LOW = "low"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        """Words of other dialects and brokers: `high` ranks as critical, an unknown one as normal."""
        return cls("critical" if value == "high" else "normal")


@dataclass(slots=True)
class Message:
    """One message as stored. The first four fields are the published SDK's, in its order.

    `create_time` and `expires_at` (0: never) are seconds since 1970, `create_time_ms` milliseconds. `headers` are the sender's
    own. `deliveries` counts how often the group was handed this message, this time included; 0 outside groups.
    """

    msg_id: int
    payload: bytes
    priority: Priority
    create_time: int
    create_time_ms: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    key: str | None = None
    tags: list[str] = field(default_factory=list)
    deliveries: int = 0
    expires_at: int = 0
    _consumer: Consumer | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The payload as UTF-8; what is not valid is replaced."""
        return self.payload.decode("utf-8", "replace")

    def json(self) -> Any:
        """The payload as JSON. Raises ValueError when it is not."""
        return json.loads(self.payload)

    async def ack(self) -> bool:
        """Confirm this message, and no other; returns when the broker has it on disk.

        False: its mailbox has moved to another broker of the cluster since it was handed out, and it may come again.
        For messages of a consumer. Those of `Client.fetch` are confirmed with `Client.ack`.
        """
        return await self._source().ack(self)

    async def nack(self, *, delay_s: float = 0.0) -> None:
        """Give this message back: the group gets it again, at once or after `delay_s` seconds."""
        await self._source().nack(self, delay_s=delay_s)

    def _source(self) -> Consumer:
        if self._consumer is None:
            raise error("INVALID_REQUEST", reason="this message does not come from a consumer; use Client.ack and Client.nack")
        return self._consumer


class Mailbox(str):
    """The address of a mailbox, with what CREATE said: `ttl` in seconds, `expires_at` in seconds since 1970 (0: never)."""

    __slots__ = ("expires_at", "is_new", "ttl")
    is_new: bool
    ttl: int
    expires_at: int

    @classmethod
    def made(cls, address: str, *, is_new: bool, ttl: int, expires_at: int) -> Self:
        mailbox = cls(address)
        mailbox.is_new = is_new
        mailbox.ttl = ttl
        mailbox.expires_at = expires_at
        return mailbox


class Receipt(int):
    """The id a SEND got: the message is on disk. -1 for a delayed one, which gets its id when it is due.

    `duplicate` says that the broker had this very message already, and this is the id of the first.
    """

    duplicate: bool = False

    @classmethod
    def made(cls, msg_id: int, *, duplicate: bool) -> Self:
        receipt = cls(msg_id)
        receipt.duplicate = duplicate
        return receipt

    @property
    def delayed(self) -> bool:
        return self < 0


class Agents(list[dict[str, Any]]):
    """One page of agents, best first. `total` counts all that match, on every page."""

    def __init__(self, agents: list[dict[str, Any]], total: int) -> None:
        super().__init__(agents)
        self.total = total


class GroupInfo(msgspec.Struct, frozen=True):
    """One consumer group: `lag` is messages not confirmed yet, `unacked` those of them handed out."""

    name: str
    lag: int = 0
    unacked: int = 0


class MailboxInfo(msgspec.Struct, frozen=True):
    """One mailbox as its broker describes it. `ttl` is seconds; `created_at` and `expires_at` (0: never) are seconds since
    1970. `messages` counts what can be read, `delayed` what is not due yet."""

    mail_address: str
    ttl: int = 0
    expires_at: int = 0
    created_at: int = 0
    desc: str = ""
    public: bool = False
    storage: str = ""
    max_deliver: int = 0
    dead_letter: str = ""
    messages: int = 0
    delayed: int = 0
    bytes: int = 0
    last_msg_id: int = 0
    groups: tuple[GroupInfo, ...] = ()


class MailboxPage(msgspec.Struct, frozen=True):
    """Some mailboxes in order of address. `next` is what `after` of the next page must be; None on the last."""

    mailboxes: tuple[MailboxInfo, ...]
    next: str | None = None
