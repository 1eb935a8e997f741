"""Delayed messages: stored now, given an id and shown when they are due, in the order they fall due.

Each mailbox with delayed messages has one timer, for its earliest. After a restart there is no timer until the mailbox is
touched: nobody looks at it before that, and loading it promotes what fell due meanwhile, before anything newer gets an id.
"""

from __future__ import annotations

import itertools
from typing import Final

from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Doomed, Mailbox
from broker_node.mailbox.sending import DELAYED_ID, Sending, Sent
from mq9.errors import Mq9Error, StorageError
from mq9.protocol.headers import SendOptions, parse_send_headers
from mq9.protocol.message import StoredMessage
from mq9.storage.interface import Table
from mq9.storage.layout import delayed_key, mailbox_range, pack_u64, unpack_delayed_key
from mq9.storage.records import pack_message, unpack_message

_PROMOTE_MAX: Final = 256  # messages promoted in one step of one mailbox
_RETRY_MS: Final = 1000


class Delayed:
    """See the module."""

    def __init__(self, boxes: Mailboxes, sending: Sending) -> None:
        self.boxes = boxes
        self.sending = sending
        # Rising over restarts as far as the clock does; `_row_key` sees to it that no row is ever shared.
        self.sequence = itertools.count(boxes.clock.wall_ms() << 20)
        boxes.on_load = self.loaded

    def send(self, mailbox: Mailbox, options: SendOptions, header: bytes, reply: bytes, payload: bytes, done: Sent) -> None:
        """Store one message that is due later; answered with DELAYED_ID. Raises as Sending.send does."""
        sending = self.sending
        if options.idempotency_id and sending.answered_before(mailbox, options.idempotency_id, done):
            return
        sending.check_room(mailbox, len(payload) + len(header))
        now_ms = self.boxes.clock.wall_ms()
        due_ms = now_ms + options.delay_ms
        row_key = self._row_key(mailbox, due_ms)
        message = StoredMessage(now_ms, 0, header, options.key, options.tags, reply, payload)
        record = pack_message(row_key, message)
        mailbox.shelf.commit.batch.put(Table.DELAYED, row_key, record)
        if options.idempotency_id:
            sending.remember_id(mailbox, options.idempotency_id, DELAYED_ID, now_ms)
        mailbox.delayed += 1
        mailbox.bytes += len(record)
        mailbox.staged_ops += 1
        if not mailbox.touched:
            mailbox.shelf.touch(mailbox)
        mailbox.shelf.commit.then(self._stored, mailbox, options.idempotency_id, due_ms, done)

    def _row_key(self, mailbox: Mailbox, due_ms: int) -> bytes:
        """A key that no delayed message has: a clock that was set back between two runs gives out numbers again."""
        while True:
            row_key = delayed_key(mailbox.id, due_ms, next(self.sequence))
            if mailbox.shelf.store.get(Table.DELAYED, row_key) is None:
                return row_key

    def _stored(self, failure: Mq9Error | None, mailbox: Mailbox, idempotency_id: bytes, due_ms: int, done: Sent) -> None:
        mailbox.staged_ops -= 1
        if failure is None:
            mailbox.staged_ids.pop(idempotency_id, None)
            self.sending.counters.sends += 1
            if not mailbox.removed:
                self._schedule(mailbox, due_ms)
        done(failure, DELAYED_ID, False)

    def _schedule(self, mailbox: Mailbox, due_ms: int) -> None:
        """Wake up at `due_ms`, unless the mailbox wakes up before that."""
        if mailbox.delay_timer is not None:
            if mailbox.delay_due_ms <= due_ms:
                return
            mailbox.delay_timer.cancel()
        clock = self.boxes.clock
        mailbox.delay_due_ms = due_ms
        wait_s = max(0, due_ms - clock.wall_ms()) / 1000
        mailbox.delay_timer = self.boxes.timers.at(clock.monotonic_s() + wait_s, self._due, mailbox)

    def _due(self, mailbox: Mailbox) -> int:
        mailbox.delay_timer = None
        return 0 if mailbox.removed else self.loaded(mailbox)

    def loaded(self, mailbox: Mailbox) -> int:
        """Promote what is due, and wake up again for the next. How many that were."""
        promoted = 0
        start, stop = mailbox_range(mailbox.id)
        now_ms = self.boxes.clock.wall_ms()
        due_stop = start + pack_u64(now_ms + 1)
        store = mailbox.shelf.store
        batch = mailbox.shelf.commit.batch
        rows = store.scan(Table.DELAYED, start, due_stop, _PROMOTE_MAX)
        for row_key, record in rows:
            if row_key in mailbox.promoting:
                continue
            mailbox.promoting.add(row_key)
            try:
                message = unpack_message(row_key, record)
            except StorageError as failure:
                self.boxes.note_damage(mailbox, failure)
                continue
            batch.delete(Table.DELAYED, row_key)
            mailbox.delayed -= 1
            mailbox.bytes -= len(record)
            self._promote(mailbox, row_key, message, now_ms)
            promoted += 1
        if len(rows) == _PROMOTE_MAX:
            # There may be more, behind rows that are the first ones until their commit has returned.
            mailbox.shelf.commit.then(self._go_on, mailbox, promoted)
            return promoted
        upcoming = store.scan(Table.DELAYED, due_stop, stop, 1)
        if upcoming:
            self._schedule(mailbox, unpack_delayed_key(upcoming[0][0])[1])
        return promoted

    def _go_on(self, failure: Mq9Error | None, mailbox: Mailbox, promoted: int) -> None:
        if not mailbox.removed:
            wait_ms = 0 if promoted and failure is None else _RETRY_MS
            self._schedule(mailbox, self.boxes.clock.wall_ms() + wait_ms)

    def _promote(self, mailbox: Mailbox, row_key: bytes, message: StoredMessage, now_ms: int) -> None:
        options = parse_send_headers(message.header)
        mailbox.staged_ops += 1
        if not mailbox.touched:
            mailbox.shelf.touch(mailbox)
        shown = message._replace(
            create_ms=max(now_ms, mailbox.last_ms), expires_ms=now_ms + options.ttl_ms if options.ttl_ms else 0
        )
        msg_id = 0
        older = self.sending.older_of_key(mailbox, options.key) if options.key else None
        replaced = None
        if older is None or not self.sending.says_nothing_new(mailbox, older, options.tier, shown, _nobody_waits):
            replaced = self.sending.replace(mailbox, older)
            msg_id = self.sending.stage(mailbox, options.tier, shown)
        mailbox.shelf.commit.then(self._promoted, mailbox, row_key, options.key, msg_id, replaced)

    def _promoted(
        self, failure: Mq9Error | None, mailbox: Mailbox, row_key: bytes, key: bytes, msg_id: int, replaced: Doomed | None
    ) -> None:
        mailbox.promoting.discard(row_key)
        if msg_id:
            self.sending.settled(failure, mailbox, key, msg_id, replaced)
        else:
            mailbox.staged_ops -= 1
        if failure is None:
            self.boxes.counters.delayed_promoted += 1
        elif not mailbox.removed:
            self._schedule(mailbox, self.boxes.clock.wall_ms() + _RETRY_MS)  # it is still stored as delayed: try again


def _nobody_waits(failure: Mq9Error | None, msg_id: int, duplicate: bool) -> None:
    """The sender of a delayed message was answered long ago."""
