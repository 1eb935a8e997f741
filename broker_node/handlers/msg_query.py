"""MSG.QUERY.{address}: look at messages without taking anything: no lease, no offset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.mailbox.model import Fetched, Mailbox
from broker_node.mailbox.walking import has_tags
from broker_node.router.request import Request
from mq9.limits import QUERY_MESSAGES_DEFAULT, QUERY_MESSAGES_MAX
from mq9.protocol.replies import messages_reply, query_encoding
from mq9.protocol.requests import QueryRequest, bounded, decode, given, milliseconds_since, query_decoder, tag_list

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{error, messages}` in id order; the filters must all hold."""
    body = decode(query_decoder, request.payload)
    mailbox = partition.mailboxes.find(request.tail)
    encoding = query_encoding(body, request.payload, request.client.name, partition.settings.encoding)
    partition.after_staged(mailbox, lambda: request.respond(messages_reply(_find(partition, mailbox, body), encoding)), request)


def _find(partition: Partition, mailbox: Mailbox, body: QueryRequest) -> list[Fetched]:
    tags = tag_list(given(body.tags))
    limit = bounded("limit", given(body.limit), QUERY_MESSAGES_DEFAULT, 1, QUERY_MESSAGES_MAX)
    since = given(body.since)
    since_ms = milliseconds_since(since) if since is not None else 0
    key = given(body.key)
    if not key:
        return partition.walking.query(mailbox, tags, since_ms, limit)
    newest = partition.sending.newest_of_key(mailbox, key.encode())
    if newest is None:
        return []
    message = partition.walking.read(mailbox, newest.row.tier, newest.row.msg_id, partition.clock.wall_ms())
    if message is None or message.create_ms < since_ms or not has_tags(message, tags):
        return []
    return [Fetched(newest.row.tier, newest.row.msg_id, message, 0)]
