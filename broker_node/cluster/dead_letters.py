"""Dead letters whose mailbox is of another slot than the one they come from: a message sent between partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from broker_node.cluster.requests import Ask
from broker_node.mailbox.model import Definition
from mq9.errors import Mq9Error
from mq9.protocol.headers import SendOptions
from mq9.protocol.message import StoredMessage
from mq9.storage.layout import slot_of

if TYPE_CHECKING:
    from broker_node.cluster.forward import Forwarder
    from broker_node.cluster.mailboxes import Node

STORE_LETTER: Final = b"$mq9.IN.DEAD.LETTER"

Answer = Callable[[Mq9Error | None, bytes], None]


class _Letter(msgspec.Struct, array_like=True):
    address: bytes
    tier: int
    idempotency_id: bytes
    header: bytes
    tags: bytes
    reply: bytes
    payload: bytes


_letter: Final = msgspec.msgpack.Decoder(_Letter)


class Letters:
    """See the module. `send` is the `send_elsewhere` of every partition's DeadLetters."""

    def __init__(self, node: Node, forwarder: Forwarder) -> None:
        self._node = node
        self._forwarder = forwarder

    def send(
        self, address: bytes, tier: int, message: StoredMessage, idempotency_id: bytes, done: Callable[[Mq9Error | None], None]
    ) -> None:
        """Store the message, wherever its mailbox is, once."""
        letter = _Letter(address, tier, idempotency_id, message.header, message.tags, message.reply, message.payload)
        slot = slot_of(address, self._node.slots)
        ask = Ask(slot, STORE_LETTER, msgspec.msgpack.encode(letter), lambda failure, _: done(failure))
        self._forwarder.forward(ask)

    def store(self, body: bytes, answer: Answer) -> None:
        """Put a letter into its mailbox, which is here. Raises an Mq9Error when there is no room for it."""
        letter = _letter.decode(body)
        partition = self._node.partition(slot_of(letter.address, self._node.slots))
        assert partition is not None
        boxes = partition.mailboxes
        target = boxes.lookup(letter.address)
        if target is None:
            target = boxes.create(letter.address, Definition(0, boxes.clock.wall_ms(), desc="dead letters"), _nobody_waits)
        options = SendOptions(tier=letter.tier, tags=letter.tags, idempotency_id=letter.idempotency_id)

        def stored(failure: Mq9Error | None, _msg_id: int, _duplicate: bool) -> None:
            answer(failure, b"")

        partition.sending.send(target, options, letter.header, letter.reply, letter.payload, stored)


def _nobody_waits(failure: Mq9Error | None) -> None:
    """The mailbox is made for a message that is staged right after it: they fail together."""
