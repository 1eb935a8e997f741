"""MSG.ACK.{address}: a group confirms messages, or gives them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.mailbox.acking import CUMULATIVE, SINGLE, Ack
from broker_node.router.request import Request
from mq9.errors import Mq9Error, error
from mq9.limits import DELAY_S_MAX, FETCH_MESSAGES_MAX
from mq9.protocol.replies import OK
from mq9.protocol.requests import AckRequest, ack_decoder, decode

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{error}`, once the confirmation is durable. Without a group: success, no effect."""
    body = decode(ack_decoder, request.payload)
    mailbox = partition.mailboxes.find(request.tail)
    ack = _ack(body)
    if not ack.group:
        request.respond(OK)
        return

    def answer(failure: Mq9Error | None) -> None:
        if failure is not None:
            request.fail(failure)
        else:
            request.respond(OK)

    partition.acking.ack(mailbox, ack, answer)


def _ack(body: AckRequest) -> Ack:
    msg_ids = tuple(body.msg_ids or ())
    if body.msg_id is not None:
        msg_ids = (*msg_ids, body.msg_id)
    if not msg_ids:
        raise error("INVALID_REQUEST", reason="msg_id or msg_ids is needed")
    if len(msg_ids) > FETCH_MESSAGES_MAX + 1:
        raise error("INVALID_REQUEST", reason=f"more than {FETCH_MESSAGES_MAX} msg_ids")
    if body.mode not in (None, "", CUMULATIVE, SINGLE):
        raise error("INVALID_REQUEST", reason="mode must be cumulative or single")
    delay_s = body.delay or 0.0
    if not 0 <= delay_s <= DELAY_S_MAX:
        raise error("INVALID_REQUEST", reason=f"delay must be 0 to {DELAY_S_MAX} seconds")
    nack = body.nack is True
    # What came before a message in its batch is not refused with it, unless the caller says so.
    mode = body.mode or (SINGLE if nack else CUMULATIVE)
    return Ack(body.group_name or "", msg_ids, mode, nack, delay_s)
