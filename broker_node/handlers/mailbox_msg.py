"""MAILBOX.MSG.{address}.{priority}: the older dialect's SEND; the priority is in the subject, and may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.push.wire import split_tail
from broker_node.router.request import Request
from mq9.errors import Mq9Error
from mq9.protocol.headers import NO_OPTIONS, parse_send_headers
from mq9.protocol.priority import tier_of

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Any bytes. Reply, if one is wanted: `{"msg_id": N}` once the message is durable. mq9-* headers work here too."""
    address, word = split_tail(partition.mailboxes, request.tail)
    mailbox = partition.mailboxes.find(address)
    options = parse_send_headers(request.header) if request.header else NO_OPTIONS
    if word:
        options = options._replace(tier=tier_of(word))

    def answer(failure: Mq9Error | None, msg_id: int, duplicate: bool) -> None:
        if failure is not None:
            request.fail(failure)
        else:
            request.respond(b'{"msg_id":%d}' % msg_id)

    door = partition.delayed if options.delay_ms else partition.sending
    door.send(mailbox, options, request.header, b"", request.payload, answer)
