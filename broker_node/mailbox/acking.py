"""ACK and its negative: what a group confirms is durable before it is answered; what it returns is offered again."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final, NamedTuple

from broker_node.mailbox.fetching import Fetching
from broker_node.mailbox.group import DELAYED, READY, Delivery, Group
from broker_node.mailbox.mailboxes import Done, Mailboxes
from broker_node.mailbox.model import Mailbox
from mq9.errors import Mq9Error, error
from mq9.storage.interface import Table
from mq9.storage.layout import acked_key, message_key, pack_u64
from mq9.storage.records import seal

CUMULATIVE: Final = "cumulative"
SINGLE: Final = "single"


class Ack(NamedTuple):
    """What an ACK says. `nack` returns the ids instead, after `delay_s`."""

    group: str
    msg_ids: tuple[int, ...]
    mode: str
    nack: bool = False
    delay_s: float = 0.0


class Acking:
    """See the module."""

    def __init__(self, boxes: Mailboxes, fetching: Fetching) -> None:
        self.boxes = boxes
        self.fetching = fetching

    def ack(self, mailbox: Mailbox, ack: Ack, done: Done) -> None:
        """Confirm or return messages. An id that was not delivered to the group, or is confirmed already, changes nothing
        and is no error; unless, in a cluster, another broker may have delivered it: then the answer is DELIVERY_LOST."""
        group = self.fetching.grouping.find(mailbox, ack.group)
        if group is None:
            done(None)
            return
        if mailbox.shelf.slot is not None and not ack.nack:
            lost = self._lost(mailbox, group, ack.msg_ids)
            if lost:
                done = partial(_told_of_loss, done, lost)
        if ack.mode == SINGLE:
            deliveries = group.singles(ack.msg_ids)
        else:
            found = {each.msg_id: each for msg_id in ack.msg_ids for each in group.cumulative(msg_id)}
            deliveries = list(found.values())
        if ack.nack:
            self._give_back(mailbox, group, deliveries, ack.delay_s)
            done(None)
            return
        self.boxes.counters.acks += 1
        if not deliveries:
            if mailbox.staged_acks:
                mailbox.shelf.commit.then(done)  # what this repeats may not be durable yet
            else:
                done(None)
            return
        self.settle(mailbox, group, deliveries)
        mailbox.staged_acks += 1
        mailbox.shelf.commit.then(self._settled, mailbox, done)

    @staticmethod
    def _lost(mailbox: Mailbox, group: Group, msg_ids: Iterable[int]) -> int:
        """The first of `msg_ids` that an earlier leader may have handed out: it is not known here and comes again, so to call
        it confirmed would not be true. 0 when there is none."""
        get = mailbox.shelf.store.get
        for msg_id in msg_ids:
            if msg_id > mailbox.opened_id or msg_id in group.by_id:
                continue
            for tier in group.unreached(msg_id):
                if get(Table.MESSAGE, message_key(mailbox.id, tier, msg_id)) is not None:
                    return msg_id
        return 0

    def settle(self, mailbox: Mailbox, group: Group, deliveries: list[Delivery]) -> None:
        """Confirm in memory, and put what that changes into the open batch."""
        confirmed = group.settle(deliveries)
        batch = mailbox.shelf.commit.batch
        for tier, low in confirmed.delete:
            batch.delete(Table.ACKED, acked_key(mailbox.id, group.group_id, tier, low))
        for tier, low, high in confirmed.put:
            row_key = acked_key(mailbox.id, group.group_id, tier, low)
            batch.put(Table.ACKED, row_key, seal(row_key, pack_u64(high)))
        if confirmed.changed:
            self.fetching.grouping.put(mailbox, group)

    def _settled(self, failure: Mq9Error | None, mailbox: Mailbox, done: Done) -> None:
        mailbox.staged_acks -= 1
        done(failure)

    def _give_back(self, mailbox: Mailbox, group: Group, deliveries: list[Delivery], delay_s: float) -> None:
        self.boxes.counters.nacks += 1
        for delivery in deliveries:
            group.give_back(delivery, DELAYED if delay_s else READY)
        if not delay_s:
            self.fetching.wake(mailbox)
            return
        deadline_s = self.boxes.clock.monotonic_s() + delay_s
        self.boxes.timers.at(deadline_s, self.offer_again, mailbox, group, deliveries)

    def offer_again(self, mailbox: Mailbox, group: Group, deliveries: list[Delivery]) -> None:
        """A delay is over: those still waiting for it may be handed out again."""
        for delivery in deliveries:
            if delivery.state == DELAYED:
                group.make_ready(delivery)
        self.fetching.wake(mailbox)


def _told_of_loss(done: Done, msg_id: int, failure: Mq9Error | None) -> None:
    """What could be confirmed is; the caller must know that not all could."""
    done(failure or error("DELIVERY_LOST", msg_id=msg_id))
