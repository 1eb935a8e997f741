"""Requests that belong to a slot, wherever that is served: a client's, and what this node itself asks of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from broker_node.cluster.envelopes import ANSWER, Reply
from broker_node.handlers import mailbox_create
from broker_node.router.request import Request
from mq9.errors import Mq9Error, error, from_reply
from mq9.protocol.headers import parse_send_headers

if TYPE_CHECKING:
    from broker_node.partition import Partition
    from broker_node.router.client import Client
    from broker_node.router.sublist import Subscription

ANY_SLOT: Final = (1 << 32) - 1  # of what is asked of a node and not of whoever leads a slot

# What may be done twice: it changes nothing, or the second time changes nothing more. A SEND may if it has an id.
_REPEATABLE: Final = frozenset(
    (b"MSG.FETCH", b"MSG.QUERY", b"MSG.ACK", b"MAILBOX.INFO", b"MAILBOX.LIST", b"AGENT.REGISTER", b"AGENT.REPORT")
)
_SENDS: Final = frozenset((b"MSG.SEND", b"MAILBOX.MSG"))
FETCH: Final = b"$mq9.AI.MSG.FETCH."
CREATE: Final = b"$mq9.AI.MAILBOX.CREATE"


def told(partition: Partition | None, failure: Mq9Error) -> Mq9Error:
    """What is said of an error in a slot: damage that was met is reported, and no answer where another has the slot whole."""
    if failure.code != "DATA_DAMAGED":
        return failure
    if partition is None:  # it was given up for that
        return error("UNAVAILABLE", reason="the mailbox moves to another broker")
    return partition.told(failure)


class Placing(Protocol):
    """What a request asks of the cluster when it could not be carried out."""

    def partition(self, slot: int) -> Partition | None:
        """The partition of a slot that is served here now."""

    def take_back(self, request: PlacedRequest) -> bool:
        """Whether the slot has moved away under the request, and it was sent after it."""


class PlacedRequest(Request):
    """A client's command in a cluster."""

    __slots__ = ("deadline_s", "placing", "slot", "subject")

    def __init__(
        self,
        client: Client,
        tail: bytes,
        reply_to: bytes,
        header: bytes,
        payload: bytes,
        deliver: Callable[[bytes, bytes, bytes, bytes], int],
    ) -> None:
        super().__init__(client, tail, reply_to, header, payload, deliver)
        self.placing: Placing | None = None
        self.slot = ANY_SLOT
        self.subject = b""
        self.deadline_s = 0.0  # until when it waits for its slot to be served; 0: it has not had to

    def place(self, placing: Placing, slot: int, subject: bytes) -> None:
        """It is about something in `slot`."""
        self.placing = placing
        self.slot = slot
        self.subject = subject

    @property
    def size(self) -> int:
        """About the bytes it holds."""
        return len(self.payload) + len(self.header) + len(self.subject) + len(self.reply_to)

    @property
    def is_poll(self) -> bool:
        """It may wait long, and is not answered at all when its client goes away."""
        return self.subject.startswith(FETCH)

    @property
    def is_repeatable(self) -> bool:
        """Whether it does no more when it is carried out twice."""
        name = b".".join(self.subject.split(b".", 4)[2:4])
        if name not in _SENDS:
            return name in _REPEATABLE
        try:
            return bool(self.header and parse_send_headers(self.header).idempotency_id)
        except Mq9Error:
            return True  # it is refused wherever it comes

    def answered(self, reply: Reply) -> None:
        """The node that serves the slot has something to say."""
        if reply.dialect:
            self.client.dialect = reply.dialect
        if self.reply_to and reply.outcome == ANSWER:
            self._deliver(self.reply_to, b"", reply.header, reply.payload)

    def fail(self, failure: Mq9Error, **fields: object) -> None:
        """As a plain request; but if it failed because its slot moved away, it goes after it where it may."""
        if self.placing is not None:
            failure = told(self.placing.partition(self.slot), failure)
            if failure.code == "UNAVAILABLE" and self.placing.take_back(self):
                return
        super().fail(failure, **fields)

    def refuse(self, failure: Mq9Error) -> None:
        """Answer with the error, for good."""
        self.placing = None
        if self.subject == CREATE:
            mailbox_create.refuse(self, failure)
        else:
            self.fail(failure)


class Nobody:
    """A `Client` that is none: the node itself, or one that has gone."""

    def __init__(self) -> None:
        self.id = 0
        self.name = self.lang = self.version = ""
        self.dialect = 2

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Nothing is said to it."""

    def is_ready(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing is ever said to it."""

    def said_offset(self) -> int:
        return 0

    def taken_offset(self) -> int:
        return 0

    def keep_little(self) -> None:
        """It has no socket."""


def _deliver_nothing(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> int:
    return 0


class Ask(PlacedRequest):
    """What this node asks of another. `done` gets an error or the payload of the answer."""

    __slots__ = ("done",)

    def __init__(self, slot: int, subject: bytes, payload: bytes, done: Callable[[Mq9Error | None, bytes], None]) -> None:
        super().__init__(Nobody(), b"", b"", b"", payload, _deliver_nothing)
        self.slot = slot
        self.subject = subject
        self.done = done

    @property
    def is_repeatable(self) -> bool:
        return True

    def answered(self, reply: Reply) -> None:
        if reply.header:  # an error: its code; the payload is its text
            self.done(from_reply(reply.header.decode(), reply.payload.decode("utf-8", "replace")), b"")
        else:
            self.done(None, reply.payload)

    def fail(self, failure: Mq9Error, **fields: Any) -> None:
        self.done(failure, b"")
