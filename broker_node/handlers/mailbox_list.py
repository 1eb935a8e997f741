"""MAILBOX.LIST.{address}: the older dialect's look into a mailbox: what is there, without payloads."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from broker_node.push.wire import OLDER_NAMES
from broker_node.router.request import Request
from mq9.limits import LISTED_MESSAGES_MAX
from mq9.protocol.priority import NAMES

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{"mail_id", "messages":[{"msg_id":"N", "priority", "ts", "ts_ms", "size"}]}` in id order. `ts` is seconds since
    1970. Of more than LISTED_MESSAGES_MAX messages it has the first, and says `"more":true`."""
    mailbox = partition.mailboxes.find(request.tail)
    names = OLDER_NAMES if request.client.dialect == 1 else NAMES

    def look() -> None:
        merged = heapq.merge(*(partition.walking.tier(mailbox, tier, 0) for tier in range(len(NAMES))))
        messages = [
            {
                "msg_id": str(msg_id),
                "priority": names[tier],
                "ts": message.create_ms // 1000,
                "ts_ms": message.create_ms,
                "size": len(message.payload),
            }
            for msg_id, tier, message, _ in islice(merged, LISTED_MESSAGES_MAX)
        ]
        reply: dict[str, Any] = {"mail_id": request.tail.decode("utf-8", "replace"), "messages": messages}
        if next(merged, None) is not None:
            reply["more"] = True
        request.respond(msgspec.json.encode(reply))

    partition.after_staged(mailbox, look, request)
