"""MSG.SEND.{address}: store a message, answer with its id once it is durable."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from broker_node.router.request import Request
from mq9.errors import Mq9Error
from mq9.protocol.headers import NO_OPTIONS, parse_send_headers

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Any bytes; the mq9-* headers say how. Reply: `{error, msg_id, duplicate?}`, msg_id -1 for a delayed message."""
    mailbox = partition.mailboxes.find(request.tail)
    header = request.header
    options = parse_send_headers(header) if header else NO_OPTIONS
    door = partition.delayed if options.delay_ms else partition.sending
    door.send(mailbox, options, header, request.reply_to, request.payload, partial(_answer, request))


def _answer(request: Request, failure: Mq9Error | None, msg_id: int, duplicate: bool) -> None:
    if failure is not None:
        request.fail(failure)
    elif duplicate:
        request.respond(b'{"error":"","msg_id":%d,"duplicate":true}' % msg_id)
    else:
        request.respond(b'{"error":"","msg_id":%d}' % msg_id)
