"""MSG.DELETE.{address}.{msg_id}: delete one message for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.router.dispatch import Request
from mq9.errors import Mq9Error, error
from mq9.protocol.replies import success

if TYPE_CHECKING:
    from broker_node.broker import Broker


def handle(broker: Broker, request: Request) -> None:
    """The body is ignored. Reply: `{error:"", deleted:true}` once that is durable; `deleted:false` with every error."""
    address, _, last = request.tail.rpartition(b".")
    try:
        if not address or not last.isdigit() or len(last) > 19:
            raise error("INVALID_REQUEST", reason="the subject must end in .{mail_address}.{msg_id}")
        msg_id = int(last)
        mailbox = broker.mailboxes.find(address)
    except Mq9Error as failure:
        request.fail(failure, deleted=False)
        return

    def answer(failure: Mq9Error | None) -> None:
        if failure is not None:
            request.fail(failure, deleted=False)
        else:
            request.respond(success(deleted=True))

    def delete() -> None:
        try:
            broker.deleting.delete(mailbox, msg_id, answer)
        except Mq9Error as failure:
            answer(failure)

    broker.after_staged(mailbox, delete, request)
