"""MSG.DELETE.{address}.{msg_id}: delete one message for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker_node.mailbox.mailboxes import Done
from broker_node.mailbox.model import Mailbox
from broker_node.router.request import Request
from mq9.errors import Mq9Error, error
from mq9.protocol.replies import success

if TYPE_CHECKING:
    from broker_node.partition import Partition

_DIGITS_MAX: Final = 19  # of an id below 2**63


def handle(partition: Partition, request: Request) -> None:
    """The body is ignored. Reply: `{error:"", deleted:true}` once that is durable; `deleted:false` with every error."""

    def answer(failure: Mq9Error | None) -> None:
        if failure is not None:
            request.fail(failure, deleted=False)
        else:
            request.respond(success(deleted=True))

    try:
        mailbox, msg_id = target(partition, request.tail)
    except Mq9Error as failure:
        answer(failure)
        return
    delete(partition, request, mailbox, msg_id, answer)


def target(partition: Partition, tail: bytes) -> tuple[Mailbox, int]:
    """The mailbox and the message id in `{address}.{msg_id}`. Raises INVALID_REQUEST or MAILBOX_NOT_FOUND."""
    address, _, last = tail.rpartition(b".")
    if not address or not last.isdigit() or len(last) > _DIGITS_MAX:
        raise error("INVALID_REQUEST", reason="the subject must end in .{mail_address}.{msg_id}")
    return partition.mailboxes.find(address), int(last)


def delete(partition: Partition, request: Request, mailbox: Mailbox, msg_id: int, answer: Done) -> None:
    """Delete one message, after what was sent to its mailbox so far; `answer` when that is durable or refused."""

    def look() -> None:
        try:
            partition.deleting.delete(mailbox, msg_id, answer)
        except Mq9Error as failure:
            answer(failure)

    partition.after_staged(mailbox, look, request)
