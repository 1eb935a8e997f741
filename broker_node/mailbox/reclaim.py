"""Giving back the room of what is over: expired messages, mailboxes and idempotency ids, and the rows of dead mailboxes.

Expiry itself needs none of this: a reader never sees what is past its time. Reclaiming follows in bounded steps, so a
million rows that expire at once cost many small commits and not one long pause. The steps also say on the shelves whether
their stores take more (`writable`).
"""

from __future__ import annotations

import logging
from typing import Final

from broker_node.mailbox.deleting import Deleting
from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Doomed, Shelf
from mq9.errors import Mq9Error, StorageError
from mq9.limits import RECLAIM_PER_TICK
from mq9.storage.interface import Table
from mq9.storage.layout import (
    ExpiryKind,
    expired_range,
    mailbox_range,
    message_key,
    slot_range,
    unpack_expiry_key,
    unpack_message_key,
    unpack_u64,
)
from mq9.storage.records import unpack_message, unseal

log = logging.getLogger("mq9.reclaim")

# Tables whose keys begin with a mailbox id: what a dead mailbox leaves behind.
_OF_MAILBOX: Final = (Table.MESSAGE, Table.KEY, Table.DEDUP, Table.DELAYED, Table.GROUP, Table.ACKED)


class Reclaim:
    """See the module. Its owner calls `step` every RECLAIM_TICK_S."""

    def __init__(self, boxes: Mailboxes, deleting: Deleting) -> None:
        self.boxes = boxes
        self.deleting = deleting
        self.busy: dict[int, bool] = {}  # id of a shelf -> its last step is not durable yet
        self.complaint = ""
        self.damaged: set[str] = set()  # reported rows

    def step(self, *, writable: bool) -> None:
        """At most RECLAIM_PER_TICK rows of each shelf go into its open batch. `writable`: what the durable store says."""
        durable, memory = self.boxes.durable, self.boxes.memory
        durable.writable = writable
        memory.writable = memory.store.stat().writable
        for shelf in (durable, memory):
            if self.busy.get(id(shelf)):
                continue
            try:
                self._step(shelf)
            except StorageError as failure:
                self._complain(failure)
                self.boxes.on_damaged(failure)

    def _step(self, shelf: Shelf) -> None:
        room = RECLAIM_PER_TICK - self._expire(shelf, RECLAIM_PER_TICK)
        room -= self._empty_trash(shelf, room)
        if room < RECLAIM_PER_TICK:
            self.busy[id(shelf)] = True
            self.boxes.counters.reclaimed += RECLAIM_PER_TICK - room
            shelf.commit.then(self._stepped, shelf)

    def _stepped(self, failure: Mq9Error | None, shelf: Shelf) -> None:
        self.busy[id(shelf)] = False
        if failure is not None:
            self._complain(failure)
        else:
            self.complaint = ""

    def _complain(self, failure: Mq9Error) -> None:
        """The next step tries again; the log hears of one trouble once."""
        if failure.text != self.complaint:
            self.complaint = failure.text
            log.warning("reclaiming waits: %s", failure.text)

    def _damaged(self, failure: StorageError) -> None:
        """One damaged row keeps no other. It stays where it is, for `mq9 verify` to name."""
        if failure.text not in self.damaged:
            self.damaged.add(failure.text)
            self.boxes.counters.damaged_records += 1
            log.error("what is over cannot be read: %s; run `mq9 verify`", failure.text)
        self.boxes.on_damaged(failure)

    # --- What expired -----------------------------------------------------------------------------------------

    def _expire(self, shelf: Shelf, room: int) -> int:
        start, stop = expired_range(shelf.expiry_slot, self.boxes.clock.wall_ms())
        rows = shelf.store.scan(Table.EXPIRY, start, stop, room)
        batch = shelf.commit.batch
        done = 0
        for row_key, row in rows:
            try:
                unseal(row_key, row)  # a key that is damaged may name anything: nothing is deleted for it
                batch.delete(Table.EXPIRY, row_key)
                done += 1
                self._expire_row(shelf, row_key)
            except StorageError as failure:
                self._damaged(failure)
        return done

    def _expire_row(self, shelf: Shelf, row_key: bytes) -> None:
        _, kind, what = unpack_expiry_key(row_key)
        if kind == ExpiryKind.MESSAGE:
            self._expire_message(shelf, what)
        elif kind == ExpiryKind.DEDUP:
            self._expire_dedup(shelf, what)
        elif kind == ExpiryKind.MAILBOX:
            self._expire_mailbox(shelf, what)

    def _expire_message(self, shelf: Shelf, row_key: bytes) -> None:
        row = shelf.store.get(Table.MESSAGE, row_key)
        if row is None:
            return
        mailbox_id, tier, msg_id = unpack_message_key(row_key)
        mailbox = self.boxes.of_id(shelf, mailbox_id)
        try:
            message = unpack_message(row_key, row)
        except StorageError as failure:
            if mailbox is not None:
                self.boxes.note_damage(mailbox, failure)
            return
        doomed = Doomed(tier, msg_id, len(row), 0, message.key)
        if mailbox is not None:
            self.deleting.stage(mailbox, doomed)
            self.deleting.forget(mailbox, doomed)
        else:
            shelf.commit.batch.delete(Table.MESSAGE, message_key(mailbox_id, tier, msg_id))

    def _expire_dedup(self, shelf: Shelf, row_key: bytes) -> None:
        row = shelf.store.get(Table.DEDUP, row_key)
        # A repeat after the window may have renewed the row; then another EXPIRY row stands for it.
        if row is not None and unpack_u64(unseal(row_key, row)[8:]) <= self.boxes.clock.wall_ms():
            shelf.commit.batch.delete(Table.DEDUP, row_key)

    def _expire_mailbox(self, shelf: Shelf, what: bytes) -> None:
        mailbox = self.boxes.of_id(shelf, unpack_u64(what[:8]))
        if mailbox is not None and not mailbox.removed:
            self.boxes.retire(mailbox)

    # --- Dead mailboxes ---------------------------------------------------------------------------------------

    def _empty_trash(self, shelf: Shelf, room: int) -> int:
        used = 0
        batch = shelf.commit.batch
        for trash_key, row in shelf.store.scan(Table.TRASH, *slot_range(shelf.slot), 16):
            try:
                unseal(trash_key, row)
            except StorageError as failure:
                self._damaged(failure)
                continue
            start, stop = mailbox_range(unpack_u64(trash_key))
            for table in _OF_MAILBOX:
                if used >= room:
                    return used
                rows = shelf.store.scan(table, start, stop, room - used)
                for row_key, _ in rows:
                    batch.delete(table, row_key)
                used += len(rows)
            if used < room:
                batch.delete(Table.TRASH, trash_key)
                used += 1
        return used
