"""MAILBOX.LIST.{address}: the older dialect's look into a mailbox: what is there, without payloads."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from broker_node.push.wire import OLDER_NAMES
from broker_node.router.request import Request
from mq9.protocol.priority import NAMES

if TYPE_CHECKING:
    from broker_node.partition import Partition

LISTED_MAX: Final = 10_000  # about 1 MB of reply


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{"mail_id", "messages":[{"msg_id":"N", "priority", "ts", "ts_ms", "size"}]}` in id order, the first
    LISTED_MAX. `ts` is seconds since 1970."""
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
            for msg_id, tier, message, _ in islice(merged, LISTED_MAX)
        ]
        request.respond(msgspec.json.encode({"mail_id": request.tail.decode("utf-8", "replace"), "messages": messages}))

    partition.after_staged(mailbox, look, request)
