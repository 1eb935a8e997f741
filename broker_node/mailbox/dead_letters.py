"""Messages that were handed out too often: out of the group's way, and into the dead-letter mailbox if there is one.

The move is one change: the copy in the dead-letter mailbox, the confirmation in the group, and, when no other group may
still want it, the removal from the mailbox become durable together.
"""

from __future__ import annotations

import logging
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
from mq9.storage.records import message_size

log = logging.getLogger("mq9.dead_letters")


_RETRY_S: Final = 1.0


class DeadLetters:
    """See the module."""

    def __init__(self, boxes: Mailboxes, fetching: Fetching, acking: Acking, deleting: Deleting, sending: Sending) -> None:
        self.boxes = boxes
        self.acking = acking
        self.deleting = deleting
        self.sending = sending
        fetching.exhausted = self.exhausted

    def exhausted(self, mailbox: Mailbox, group: Group, delivery: Delivery, item: Fetched) -> None:
        """`item` was handed to `group` as often as its mailbox allows: the group gets it no more."""
        try:
            target = self._target(mailbox)
            if target is not None:
                self.sending.check_room(target, len(item.message.payload))
        except Mq9Error as failure:
            log.warning("a dead letter of mailbox id %d waits: %s", mailbox.id, failure.text)
            delivery.state = DELAYED
            retry_s = self.boxes.clock.monotonic_s() + _RETRY_S
            self.boxes.timers.at(retry_s, self.acking.offer_again, mailbox, group, [delivery])
            return
        self.acking.settle(mailbox, group, [delivery])
        doomed = None
        msg_id = 0
        if target is not None:
            block = dead_letter_header(item.message.header, mailbox.address, "max_deliver", item.deliveries, item.msg_id)
            now_ms = max(self.boxes.clock.wall_ms(), target.last_ms)
            copy = item.message._replace(header=block, create_ms=now_ms, expires_ms=0, key=b"")
            msg_id = self.sending.stage(target, item.tier, copy)
            target.staged_ops += 1
            if len(mailbox.groups) == 1:
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


def _nobody_waits(failure: Mq9Error | None) -> None:
    """The mailbox is made for a message that is staged right after it: they fail together."""
