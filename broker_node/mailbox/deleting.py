"""Taking single messages away: by DELETE, because a newer one has their key, because they expired or were dead-lettered."""

from __future__ import annotations

from broker_node.mailbox.group import Confirmed, Group
from broker_node.mailbox.grouping import Grouping
from broker_node.mailbox.mailboxes import Done, Mailboxes
from broker_node.mailbox.model import Doomed, Mailbox
from mq9.errors import Mq9Error, error
from mq9.storage.interface import Batch, Table
from mq9.storage.layout import (
    TIERS,
    ExpiryKind,
    acked_key,
    expiry_key,
    key_key,
    message_key,
    unpack_key_row,
)
from mq9.storage.records import unpack_message, unseal


class Deleting:
    """See the module."""

    def __init__(self, boxes: Mailboxes) -> None:
        self.boxes = boxes

    def delete(self, mailbox: Mailbox, msg_id: int, done: Done) -> None:
        """Delete one visible message; `done` when that is durable. Raises MESSAGE_NOT_FOUND."""
        store = mailbox.shelf.store
        now_ms = self.boxes.clock.wall_ms()
        for tier in range(TIERS):
            row_key = message_key(mailbox.id, tier, msg_id)
            row = store.get(Table.MESSAGE, row_key) if mailbox.counts[tier] else None
            if row is None or mailbox.shelf.commit.batch.tables[Table.MESSAGE].get(row_key, row) is None:
                continue
            message = unpack_message(row_key, row)
            if message.expires_ms and message.expires_ms <= now_ms:
                break
            doomed = Doomed(tier, msg_id, len(row), message.expires_ms, message.key)
            self.stage(mailbox, doomed)
            self.boxes.counters.deletes += 1
            mailbox.staged_ops += 1
            mailbox.shelf.commit.then(self._deleted, mailbox, doomed, done)
            return
        raise error("MESSAGE_NOT_FOUND")

    def stage(self, mailbox: Mailbox, doomed: Doomed) -> None:
        """Take the message out in the open batch. The caller calls `forget` once that is durable."""
        tier, msg_id, size, expires_ms, key = doomed
        batch = mailbox.shelf.commit.batch
        row_key = message_key(mailbox.id, tier, msg_id)
        batch.delete(Table.MESSAGE, row_key)
        if expires_ms:
            batch.delete(Table.EXPIRY, expiry_key(mailbox.shelf.expiry_slot, expires_ms, ExpiryKind.MESSAGE, row_key))
        if key and key not in mailbox.staged_keys:
            self._free_key(mailbox, batch, key, msg_id)
        mailbox.counts[tier] -= 1
        mailbox.bytes -= size
        if not mailbox.touched:
            mailbox.shelf.touch(mailbox)

    @staticmethod
    def _free_key(mailbox: Mailbox, batch: Batch, key: bytes, msg_id: int) -> None:
        row_key = key_key(mailbox.id, key)
        row = mailbox.shelf.store.get(Table.KEY, row_key)
        if row is not None and unpack_key_row(unseal(row_key, row))[1] == msg_id:
            batch.delete(Table.KEY, row_key)

    def _deleted(self, failure: Mq9Error | None, mailbox: Mailbox, doomed: Doomed, done: Done) -> None:
        mailbox.staged_ops -= 1
        if failure is None:
            self.forget(mailbox, doomed)
        done(failure)

    @staticmethod
    def forget(mailbox: Mailbox, doomed: Doomed) -> None:
        """The message is gone: there is nothing left for a group to confirm."""
        for group in mailbox.groups.values():
            if doomed.msg_id in group.by_id:
                put_floors(mailbox, group, group.vanish(doomed.msg_id))


def put_floors(mailbox: Mailbox, group: Group, confirmed: Confirmed) -> None:
    """Put what a message that is gone changes for a group into the open batch: its floors, and with them the deletion of the
    ACKED rows that they have passed. Nobody waits for it, it goes with the next commit."""
    if not confirmed.changed or mailbox.removed:
        return
    Grouping.put(mailbox, group)
    batch = mailbox.shelf.commit.batch
    for tier, low in confirmed.delete:
        batch.delete(Table.ACKED, acked_key(mailbox.id, group.group_id, tier, low))
