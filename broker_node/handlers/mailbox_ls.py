"""MAILBOX.LS: the public mailboxes, a page at a time. An addition to the published commands.

A private address is a secret: it is not listed to anyone over this command.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from broker_node.mailbox.listing import Page
from broker_node.router.request import Request
from mq9.errors import Mq9Error, error
from mq9.protocol.replies import success
from mq9.protocol.requests import bounded, decode, list_decoder

if TYPE_CHECKING:
    from broker_node.broker import Broker

_PAGE_DEFAULT = 100
_PAGE_MAX = 1000


def handle(broker: Broker, request: Request) -> None:
    """Reply: `{error, mailboxes:[...], next?}`; pass `next` as `after` for the page that follows."""
    body = decode(list_decoder, request.payload)
    limit = bounded("limit", body.limit, _PAGE_DEFAULT, 1, _PAGE_MAX)
    prefix = (body.prefix or "").encode()
    try:
        after = base64.urlsafe_b64decode(body.after) if body.after else b""
    except (binascii.Error, ValueError):
        raise error("INVALID_REQUEST", reason="after is not a `next` of this command") from None

    def listed(failure: Mq9Error | None, found: list[dict[str, Any]], following: bytes) -> None:
        if failure is not None:
            request.fail(failure)
        elif following:
            request.respond(success(mailboxes=found, next=base64.urlsafe_b64encode(following).decode()))
        else:
            request.respond(success(mailboxes=found))

    broker.cluster.list_public(Page(after, prefix, limit, full=True), listed)
