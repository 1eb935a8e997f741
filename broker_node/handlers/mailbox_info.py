"""MAILBOX.INFO.{address}: what a mailbox is and holds. An addition to the published commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from broker_node.mailbox.model import Mailbox
from broker_node.router.request import Request
from mq9.protocol.replies import success

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{error, mail_address, ttl, expires_at, desc, public, storage, messages, delayed, bytes, created_at, groups}`.

    Knowing the address is the right to ask. Times are seconds since 1970.
    """
    mailbox = partition.mailboxes.find(request.tail)
    partition.after_staged(mailbox, lambda: request.respond(success(**describe(partition, mailbox))), request)


def describe(partition: Partition, mailbox: Mailbox) -> dict[str, Any]:
    """The fields of one mailbox, as INFO, LS and the monitor show them."""
    definition = mailbox.definition
    return {
        "mail_address": mailbox.address.decode("utf-8", "replace"),
        "ttl": definition.ttl_s,
        "expires_at": definition.expires_ms // 1000,
        "created_at": definition.created_ms // 1000,
        "desc": definition.desc,
        "public": definition.public,
        "storage": "memory" if mailbox.shelf.memory else "lmdb",
        "max_deliver": definition.max_deliver,
        "dead_letter": definition.dead_letter,
        "messages": mailbox.messages,
        "delayed": mailbox.delayed,
        "bytes": mailbox.bytes,
        "last_msg_id": mailbox.visible_id,
        "groups": [msgspec.structs.asdict(group) for group in partition.fetching.grouping.summaries(mailbox)],
    }
