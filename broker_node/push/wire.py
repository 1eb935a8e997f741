"""The wire form of pushed messages: from a subscription's subject to a `Push`, and from a message to what is said.

A subject is `$mq9.AI.MAILBOX.MSG.{address}` with a priority word, `*`, `>` or nothing behind it. The published v1 SDK gets
a JSON envelope; everybody else gets the payload as it was sent, with headers that say what it is.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import msgspec

from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Fetched, Mailbox
from broker_node.mailbox.pushing import ALL_TIERS, Push
from broker_node.permissions import PUSH_PREFIX
from mq9.protocol.headers import delivery_header
from mq9.protocol.priority import CRITICAL, LOW, NAMES, NORMAL, URGENT

if TYPE_CHECKING:
    from broker_node.router.client import Client
    from broker_node.router.sublist import Subscription

SDK_NAME: Final = "robustmq-mq9-python"
OLDER_NAMES: Final = ("high", "high", "normal", "low")  # the three words of the older dialect, by tier

_TIERS_OF_WORD: Final = {
    b"critical": 1 << CRITICAL,
    b"urgent": 1 << URGENT,
    b"high": 1 << CRITICAL | 1 << URGENT,
    b"normal": 1 << NORMAL,
    b"low": 1 << LOW,
}
_AGAIN: Final = b"mq9-deliveries: %d\r\n"  # as FETCH says it
PRIORITY_WORDS: Final = frozenset(_TIERS_OF_WORD)


def split_tail(boxes: Mailboxes, tail: bytes) -> tuple[bytes, bytes]:
    """(address, last word) of what follows `MAILBOX.MSG.`. The word is empty when the whole tail is an address: when it
    does not end in a priority word, or when no mailbox has the name before that word."""
    address, _, word = tail.rpartition(b".")
    if address and word in PRIORITY_WORDS and boxes.lookup(address) is not None:
        return address, word
    return tail, b""


def push_for(boxes: Mailboxes, client: Client, sub: Subscription) -> Push:
    """What a subscription under `MAILBOX.MSG.` asks for."""
    tail = sub.subject[len(PUSH_PREFIX) :]
    address, _, word = tail.rpartition(b".")
    tiers = ALL_TIERS
    if word in (b"*", b">"):
        pass
    elif word in PRIORITY_WORDS and address and boxes.lookup(tail) is None:
        tiers = _TIERS_OF_WORD[word]
    else:
        address = tail
    names = OLDER_NAMES if client.dialect == 1 else NAMES
    has_envelope = client.name == SDK_NAME

    def deliver(mailbox: Mailbox, item: Fetched) -> None:
        name = names[item.tier]
        subject = b"%b%b.%b" % (PUSH_PREFIX, mailbox.address, name.encode())
        if has_envelope:
            client.receive(sub, subject, b"", b"", _envelope(mailbox, item, name))
            return
        message = item.message
        again = _AGAIN % item.deliveries if item.deliveries > 1 else b""
        header = delivery_header(message.header, item.msg_id, item.tier, message.create_ms, again)
        client.receive(sub, subject, b"", header, message.payload)

    return Push(client, address, tiers, sub.queue.decode("utf-8", "replace"), deliver)


def _envelope(mailbox: Mailbox, item: Fetched, priority: str) -> bytes:
    """The SDK takes an envelope without a payload for the payload itself, so an empty message is an empty body."""
    if not item.message.payload:
        return b""
    return msgspec.json.encode(
        {
            "msg_id": str(item.msg_id),
            "mail_id": mailbox.address.decode("utf-8", "replace"),
            "payload": base64.b64encode(item.message.payload).decode(),
            "priority": priority,
            "ts": item.message.create_ms // 1000,
        }
    )
