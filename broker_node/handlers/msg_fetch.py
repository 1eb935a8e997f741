"""MSG.FETCH.{address}: what a group gets next, or what a passer-by asks to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.mailbox.grouping import EARLIEST, FROM_ID, FROM_TIME, LATEST, Wanted
from broker_node.mailbox.model import Fetched, Mailbox
from broker_node.router.request import Request
from mq9 import limits
from mq9.errors import Mq9Error, error
from mq9.protocol.headers import delivery_header
from mq9.protocol.replies import fetch_encoding, messages_reply
from mq9.protocol.requests import (
    FetchConfig,
    FetchRequest,
    bounded,
    decode,
    fetch_decoder,
    given,
    milliseconds_since,
    tag_list,
)

if TYPE_CHECKING:
    from broker_node.partition import Partition

_NO_CONFIG = FetchConfig()


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{error, messages}`; with `config.stream` one message each on the reply subject, ended by a status 204."""
    body = decode(fetch_decoder, request.payload)
    mailbox = partition.mailboxes.find(request.tail)
    wanted = _wanted(partition, request, body, mailbox)
    encoding = fetch_encoding(body, partition.settings.encoding)
    streamed = body.config is not None and bool(body.config.stream)

    def answer(failure: Mq9Error | None, found: list[Fetched]) -> None:
        if failure is not None:
            request.fail(failure, messages=[])
        elif streamed:
            _stream(request, found)
        else:
            request.respond(messages_reply(found, encoding))

    partition.fetching.fetch(mailbox, wanted, answer)


def _wanted(partition: Partition, request: Request, body: FetchRequest, mailbox: Mailbox) -> Wanted:
    config = body.config or _NO_CONFIG
    group = body.group_name or ""
    if len(group.encode()) > limits.GROUP_NAME_BYTES_MAX:
        raise error("INVALID_REQUEST", reason=f"group_name is longer than {limits.GROUP_NAME_BYTES_MAX} bytes")
    deliver, start = _deliver(body)
    wait_ms = bounded("max_wait_ms", given(config.max_wait_ms), limits.FETCH_WAIT_MS_DEFAULT, 0, limits.FETCH_WAIT_MS_MAX)
    if wait_ms >= 1000:
        wait_ms -= limits.FETCH_EARLY_ANSWER_MS
    lease_ms = bounded(
        "ack_wait_ms",
        config.ack_wait_ms,
        mailbox.definition.ack_wait_ms or partition.settings.ack_wait_ms,
        limits.ACK_WAIT_MS_MIN,
        limits.ACK_WAIT_MS_MAX,
    )
    return Wanted(
        owner=request.client.id,
        group=group,
        most=bounded("num_msgs", given(config.num_msgs), limits.FETCH_MESSAGES_DEFAULT, 1, limits.FETCH_MESSAGES_MAX),
        wait_ms=wait_ms,
        deliver=deliver,
        start=start,
        force=body.force_deliver is True,
        tags=tag_list(body.tags),
        lease_ms=lease_ms,
        hold=config.hold is True,
    )


def _deliver(body: FetchRequest) -> tuple[str, int]:
    """Where to begin: the word, and the id or the time in ms that goes with it. A start that is given says its own word."""
    deliver = body.deliver
    from_time = given(body.from_time)
    if not deliver:
        implied = FROM_TIME if from_time is not None else LATEST
        deliver = FROM_ID if body.from_id is not None else implied
    if deliver == FROM_ID:
        if body.from_id is None or not 0 <= body.from_id < 1 << 63:
            raise error("INVALID_REQUEST", reason="deliver from_id needs from_id, a message id")
        return deliver, body.from_id
    if deliver == FROM_TIME:
        if from_time is None:
            raise error("INVALID_REQUEST", reason="deliver from_time needs from_time")
        return deliver, milliseconds_since(from_time)
    if deliver not in (EARLIEST, LATEST):
        raise error("INVALID_REQUEST", reason="deliver must be earliest, latest, from_id or from_time")
    return deliver, 0


def _stream(request: Request, found: list[Fetched]) -> None:
    """The fast path: raw payloads, no JSON, no base64."""
    for tier, msg_id, message, deliveries in found:
        extra = b"mq9-deliveries: %d\r\n" % deliveries
        if message.expires_ms:
            extra += b"mq9-expires-at: %d\r\n" % (message.expires_ms // 1000)
        if message.reply:
            extra += b"mq9-reply: %b\r\n" % message.reply.decode("utf-8", "replace").encode()
        header = delivery_header(message.header, msg_id, tier, message.create_ms, extra)
        request.respond(message.payload, header)
    request.respond(b"", b"NATS/1.0 204\r\nmq9-count: %d\r\n\r\n" % len(found))
