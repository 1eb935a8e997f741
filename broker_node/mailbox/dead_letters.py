"""Messages that were handed out too often: out of the group's way, and into the dead-letter mailbox if there is one.

The move is one change: the copy in the dead-letter mailbox, the confirmation in the group, and, when no other group may
still want it, the removal from the mailbox become durable together.

In a cluster the dead-letter mailbox may be of another slot, maybe on another node. Then the copy is sent first, under an
idempotency id made of what it is a copy of, and the rest follows when that was answered: what happens in between is repeated
and makes no second copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from broker_node.mailbox.acking import Acking
from broker_node.mailbox.deleting import Deleting
from broker_node.mailbox.fetching import Fetching
from broker_node.mailbox.group import DELAYED, Delivery, Group
from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Definition, Doomed, Fetched, Mailbox
from broker_node.mailbox.sending import Sending
from mq9.errors import Mq9Error
from mq9.protocol.headers import dead_letter_header
from mq9.protocol.message import StoredMessage
from mq9.storage.interface import Table
from mq9.storage.layout import message_key, slot_of
from mq9.storage.records import message_size

log = logging.getLogger("mq9.dead_letters")

# (address, tier, message, idempotency id, done): stores a message in a mailbox of another slot, making that if need be.
SendElsewhere = Callable[[bytes, int, StoredMessage, bytes, Callable[[Mq9Error | None], None]], None]

_RETRY_S: Final = 1.0


class DeadLetters:
    """See the module."""

    def __init__(self, boxes: Mailboxes, fetching: Fetching, acking: Acking, deleting: Deleting, sending: Sending) -> None:
        self.boxes = boxes
        self.acking = acking
        self.deleting = deleting
        self.sending = sending
        self.send_elsewhere: SendElsewhere | None = None  # set in a cluster
        self._closed = False
        fetching.exhausted = self.exhausted

    def close(self) -> None:
        """What was sent elsewhere and is not answered yet is for whoever has the mailbox next."""
        self._closed = True

    def exhausted(self, mailbox: Mailbox, group: Group, delivery: Delivery, item: Fetched) -> None:
        """`item` was handed to `group` as often as its mailbox allows: the group gets it no more."""
        address = mailbox.definition.dead_letter.encode()
        if address and self.send_elsewhere is not None and slot_of(address, self.boxes.slots) != self.boxes.durable.slot:
            self._copy_elsewhere(self.send_elsewhere, mailbox, group, delivery, item)
            return
        try:
            target = self._target(mailbox)
            if target is not None:
                self.sending.check_room(target, len(item.message.payload))
        except Mq9Error as failure:
            self._wait(mailbox, group, delivery, failure)
            return
        copied = None
        if target is not None:
            copy = _copy(mailbox, item, max(self.boxes.clock.wall_ms(), target.last_ms))
            msg_id = self.sending.stage(target, item.tier, copy)
            target.staged_ops += 1
            copied = (target, msg_id)
        self._settle(mailbox, group, delivery, item, copied)

    def _wait(self, mailbox: Mailbox, group: Group, delivery: Delivery, failure: Mq9Error) -> None:
        log.warning("a dead letter of mailbox id %d waits: %s", mailbox.id, failure.text)
        delivery.state = DELAYED
        retry_s = self.boxes.clock.monotonic_s() + _RETRY_S
        self.boxes.timers.at(retry_s, self.acking.offer_again, mailbox, group, [delivery])

    def _copy_elsewhere(self, send: SendElsewhere, mailbox: Mailbox, group: Group, delivery: Delivery, item: Fetched) -> None:
        def sent(failure: Mq9Error | None) -> None:
            is_current = not mailbox.removed and mailbox.groups.get(group.name) is group
            if self._closed or not is_current or delivery.state != DELAYED or group.by_id.get(item.msg_id) is not delivery:
                return
            if failure is not None:
                self._wait(mailbox, group, delivery, failure)
                return
            shelf = mailbox.shelf
            row_key = message_key(mailbox.id, item.tier, item.msg_id)
            is_deleted = shelf.commit.batch.tables[Table.MESSAGE].get(row_key, b"") is None
            if not is_deleted and shelf.store.get(Table.MESSAGE, row_key) is not None:
                self._settle(mailbox, group, delivery, item, (None, 0))

        delivery.state = DELAYED  # out of the way, until the answer
        message = item.message
        idempotency_id = b"dead-%d-%d-%d" % (mailbox.id, item.msg_id, message.create_ms)
        copy = _copy(mailbox, item, message.create_ms)
        send(mailbox.definition.dead_letter.encode(), item.tier, copy, idempotency_id, sent)

    def _settle(
        self, mailbox: Mailbox, group: Group, delivery: Delivery, item: Fetched, copied: tuple[Mailbox | None, int] | None
    ) -> None:
        """The group has it no more. `copied`: where to in this same change, if it was not copied elsewhere before, and as
        what; None when there is no copy."""
        target, msg_id = copied or (None, 0)
        self.acking.settle(mailbox, group, [delivery])
        doomed = None
        if copied is not None and len(mailbox.groups) == 1:
            doomed = Doomed(item.tier, item.msg_id, message_size(item.message), item.message.expires_ms, item.message.key)
            self.deleting.stage(mailbox, doomed)
        mailbox.staged_acks += 1
        self.boxes.counters.dead_letters += 1
        mailbox.shelf.commit.then(self._moved, mailbox, target, msg_id, doomed)

    def _moved(
        self, failure: Mq9Error | None, mailbox: Mailbox, target: Mailbox | None, msg_id: int, doomed: Doomed | None
    ) -> None:
        mailbox.staged_acks -= 1
        if target is not None:
            self.sending.settled(failure, target, b"", msg_id, None)
        if failure is None and doomed is not None:
            self.deleting.forget(mailbox, doomed)

    def _target(self, mailbox: Mailbox) -> Mailbox | None:
        """The dead-letter mailbox, made when it is not there; None when the mailbox names none."""
        name = mailbox.definition.dead_letter.encode()
        if not name:
            return None
        target = self.boxes.lookup(name)
        if target is not None and target.shelf is mailbox.shelf:
            return target
        if target is not None:
            log.warning("mailbox id %d and its dead-letter mailbox are in different stores: no copy is made", mailbox.id)
            return None
        wanted = Definition(0, self.boxes.clock.wall_ms(), memory=mailbox.definition.memory, desc="dead letters")
        return self.boxes.create(name, wanted, _nobody_waits)


def _copy(mailbox: Mailbox, item: Fetched, create_ms: int) -> StoredMessage:
    """What is stored in the dead-letter mailbox."""
    block = dead_letter_header(item.message.header, mailbox.address, "max_deliver", item.deliveries, item.msg_id)
    return item.message._replace(header=block, create_ms=create_ms, expires_ms=0, key=b"")


def _nobody_waits(failure: Mq9Error | None) -> None:
    """The mailbox is made for a message that is staged right after it: they fail together."""
