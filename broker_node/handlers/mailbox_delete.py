"""MAILBOX.DELETE.{address}.{msg_id}: the older dialect's DELETE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.handlers import msg_delete
from broker_node.router.request import Request
from mq9.errors import Mq9Error, NotFound

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{"deleted": true}`, or false when the message is not there."""
    mailbox, msg_id = msg_delete.target(partition, request.tail)

    def answer(failure: Mq9Error | None) -> None:
        if isinstance(failure, NotFound):
            request.respond(b'{"deleted":false}')
        elif failure is not None:
            request.fail(failure)
        else:
            request.respond(b'{"deleted":true}')

    msg_delete.delete(partition, request, mailbox, msg_id, answer)
