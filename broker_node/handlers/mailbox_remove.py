"""MAILBOX.REMOVE.{address}: remove a mailbox with everything in it. An addition to the published commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.router.request import Request
from mq9.errors import Mq9Error
from mq9.protocol.replies import OK

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{error}` once that is durable. Knowing the address is the right to do it."""
    mailbox = partition.mailboxes.find(request.tail)

    def answer(failure: Mq9Error | None) -> None:
        if failure is not None:
            request.fail(failure)
        else:
            request.respond(OK)

    partition.mailboxes.remove(mailbox, answer)
