"""MAILBOX.LS: the public mailboxes, a page at a time. An addition to the published commands.

A private address is a secret: it is not listed to anyone over this command.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from broker_node.handlers.mailbox_info import describe
from broker_node.router.request import Request
from mq9.errors import error
from mq9.protocol.replies import success
from mq9.protocol.requests import bounded, decode, list_decoder

if TYPE_CHECKING:
    from broker_node.broker import Broker

_PAGE_DEFAULT = 100
_PAGE_MAX = 1000
_LOOK_MAX = 20_000  # definitions looked at for one page


def handle(broker: Broker, request: Request) -> None:
    """Reply: `{error, mailboxes:[...], next?}`; pass `next` as `after` for the page that follows."""
    body = decode(list_decoder, request.payload)
    limit = bounded("limit", body.limit, _PAGE_DEFAULT, 1, _PAGE_MAX)
    prefix = (body.prefix or "").encode()
    try:
        after = base64.urlsafe_b64decode(body.after) if body.after else b""
    except (binascii.Error, ValueError):
        raise error("INVALID_REQUEST", reason="after is not a `next` of this command") from None
    found, following = broker.mailboxes.public_page(after, prefix, limit, _LOOK_MAX)
    listed = [mailbox for mailbox in map(broker.mailboxes.lookup, found) if mailbox is not None]
    reply = {"mailboxes": [describe(broker, mailbox) for mailbox in listed]}
    if following:
        request.respond(success(**reply, next=base64.urlsafe_b64encode(following).decode()))
    else:
        request.respond(success(**reply))
