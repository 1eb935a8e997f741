"""SEND: from headers and payload to rows in the open batch, and the answer once they are durable.

Everything that can refuse a message comes before the first change; after that nothing can fail but the commit. A message
becomes visible to readers only when its commit has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker_node.mailbox.deleting import Deleting
from broker_node.mailbox.fetching import Fetching
from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Doomed, Mailbox, OfKey
from mq9.errors import Mq9Error, error
from mq9.protocol.headers import NO_OPTIONS, SendOptions, without_idempotency_id
from mq9.protocol.message import StoredMessage
from mq9.protocol.priority import NORMAL
from mq9.storage.interface import Table
from mq9.storage.layout import (
    ExpiryKind,
    dedup_key,
    expiry_key,
    key_key,
    key_row,
    message_key,
    pack_u64,
    unpack_key_row,
    unpack_u64,
)
from mq9.storage.records import pack_message, pack_plain_message, seal, unpack_message, unseal

# What SEND answers: (error or None, msg_id, duplicate). msg_id is DELAYED_ID for a message that is not due yet.
Sent = Callable[[Mq9Error | None, int, bool], None]
DELAYED_ID: Final = -1
_DELAYED_MARK: Final = (1 << 64) - 1  # how DELAYED_ID is written in a DEDUP row


class Sending:
    """See the module."""

    def __init__(self, boxes: Mailboxes, fetching: Fetching, deleting: Deleting) -> None:
        self.boxes = boxes
        self.fetching = fetching
        self.deleting = deleting
        self.counters = boxes.counters
        self.max_messages = boxes.settings.max_mailbox_messages
        self.max_bytes = boxes.settings.max_mailbox_bytes
        self.dedup_window_ms = boxes.settings.dedup_window_s * 1000

    def send(self, mailbox: Mailbox, options: SendOptions, header: bytes, reply: bytes, payload: bytes, done: Sent) -> None:
        """Store one message. `done` is called when it is durable (or is a duplicate, or could not be stored).

        `options.delay_ms` is not looked at: see delayed.py. Raises STORAGE_FULL or MAILBOX_FULL; then nothing was changed.
        """
        if options is NO_OPTIONS:
            self._send_plain(mailbox, header, reply, payload, done)
            return
        if options.idempotency_id and self.answered_before(mailbox, options.idempotency_id, done):
            return
        older = self.older_of_key(mailbox, options.key) if options.key else None
        self.check_room(mailbox, len(payload) + len(header), older)
        now_ms = self.boxes.clock.wall_ms()
        expires_ms = now_ms + options.ttl_ms if options.ttl_ms else 0
        message = StoredMessage(max(mailbox.last_ms, now_ms), expires_ms, header, options.key, options.tags, reply, payload)
        replaced = None
        if older is not None:
            if self.says_nothing_new(mailbox, older, options.tier, message, done):
                return
            replaced = self.replace(mailbox, older)
        msg_id = self.stage(mailbox, options.tier, message)
        if options.idempotency_id:
            self.remember_id(mailbox, options.idempotency_id, msg_id, now_ms)
        mailbox.staged_ops += 1
        mailbox.shelf.commit.then(self._stored, mailbox, options, msg_id, replaced, done)

    def _send_plain(self, mailbox: Mailbox, header: bytes, reply: bytes, payload: bytes, done: Sent) -> None:
        """The same and `stage` in one, for a message that asks for nothing: a sixth of what a SEND costs is saved here."""
        self.check_room(mailbox, len(payload) + len(header))
        mailbox.last_ms = create_ms = max(mailbox.last_ms, self.boxes.clock.wall_ms())
        mailbox.last_id = msg_id = mailbox.last_id + 1
        row_key = message_key(mailbox.id, NORMAL, msg_id)
        record = pack_plain_message(row_key, create_ms, header, reply, payload)
        size = len(record)
        commit = mailbox.shelf.commit
        commit.batch.tables[Table.MESSAGE][row_key] = record
        commit.batch.bytes_staged += size
        mailbox.counts[NORMAL] += 1
        mailbox.bytes += size
        if not mailbox.touched:
            mailbox.shelf.touch(mailbox)
        mailbox.staged_ops += 1
        commit.then(self._stored, mailbox, NO_OPTIONS, msg_id, None, done)

    def stage(self, mailbox: Mailbox, tier: int, message: StoredMessage) -> int:
        """Put the rows of one message that is to be visible into the open batch. Returns its id.

        The caller counts it into `staged_ops` and calls `settled` when the commit has returned.
        """
        mailbox.last_id = msg_id = mailbox.last_id + 1
        mailbox.last_ms = message.create_ms
        row_key = message_key(mailbox.id, tier, msg_id)
        record = pack_message(row_key, message)
        size = len(record)
        batch = mailbox.shelf.commit.batch
        batch.tables[Table.MESSAGE][row_key] = record
        batch.bytes_staged += size
        if message.expires_ms:
            row = expiry_key(mailbox.shelf.expiry_slot, message.expires_ms, ExpiryKind.MESSAGE, row_key)
            batch.put(Table.EXPIRY, row, seal(row, b""))
        if message.key:
            row = key_key(mailbox.id, message.key)
            batch.put(Table.KEY, row, seal(row, key_row(tier, msg_id)))
            mailbox.staged_keys[message.key] = OfKey(
                Doomed(tier, msg_id, size, message.expires_ms), message.header, message.payload, staged=True
            )
        mailbox.counts[tier] += 1
        mailbox.bytes += size
        if not mailbox.touched:
            mailbox.shelf.touch(mailbox)
        return msg_id

    def settled(self, failure: Mq9Error | None, mailbox: Mailbox, key: bytes, msg_id: int, replaced: Doomed | None) -> None:
        """The commit of a staged message returned: show the message, unless it failed."""
        mailbox.staged_ops -= 1
        if failure is not None:
            return
        mailbox.visible_id = msg_id
        if key:
            staged = mailbox.staged_keys.get(key)
            if staged is not None and staged.row.msg_id == msg_id:
                del mailbox.staged_keys[key]
            if replaced is not None:
                self.deleting.forget(mailbox, replaced)
        if mailbox.waiters or mailbox.pushed:
            self.fetching.wake(mailbox)

    def _stored(
        self, failure: Mq9Error | None, mailbox: Mailbox, options: SendOptions, msg_id: int, replaced: Doomed | None, done: Sent
    ) -> None:
        self.settled(failure, mailbox, options.key, msg_id, replaced)
        if failure is None:
            self.counters.sends += 1
            if options.idempotency_id:
                mailbox.staged_ids.pop(options.idempotency_id, None)
        done(failure, msg_id, False)

    def check_room(self, mailbox: Mailbox, size: int, older: OfKey | None = None) -> None:
        """Raise STORAGE_FULL or MAILBOX_FULL when there is no room for `size` bytes more in place of `older`."""
        if not mailbox.shelf.writable:
            raise error("STORAGE_FULL")
        counts = mailbox.counts
        if counts[0] + counts[1] + counts[2] + counts[3] + mailbox.delayed >= self.max_messages and older is None:
            name = mailbox.address.decode("utf-8", "replace")
            raise error("MAILBOX_FULL", name=name, reason=f"{self.max_messages} messages")
        if mailbox.bytes + size - (older.row.size if older is not None else 0) > self.max_bytes:
            name = mailbox.address.decode("utf-8", "replace")
            raise error("MAILBOX_FULL", name=name, reason=f"{self.max_bytes} bytes")

    # --- Idempotent sends -------------------------------------------------------------------------------------

    def answered_before(self, mailbox: Mailbox, idempotency_id: bytes, done: Sent) -> bool:
        """Answer a repeat with the id of the first; False when it is no repeat."""
        staged = mailbox.staged_ids.get(idempotency_id)
        if staged is not None:
            # The first one is not durable yet; neither may its repeat be answered.
            self.counters.duplicates += 1
            mailbox.shelf.commit.then(done, staged, True)
            return True
        row_key = dedup_key(mailbox.id, idempotency_id)
        row = mailbox.shelf.store.get(Table.DEDUP, row_key)
        if row is None:
            return False
        payload = unseal(row_key, row)
        if unpack_u64(payload[8:]) <= self.boxes.clock.wall_ms():
            return False  # outside the window, not reclaimed yet
        known = unpack_u64(payload[:8])
        self.counters.duplicates += 1
        done(None, DELAYED_ID if known == _DELAYED_MARK else known, True)
        return True

    def remember_id(self, mailbox: Mailbox, idempotency_id: bytes, msg_id: int, now_ms: int) -> None:
        until_ms = now_ms + self.dedup_window_ms
        row_key = dedup_key(mailbox.id, idempotency_id)
        batch = mailbox.shelf.commit.batch
        batch.put(Table.DEDUP, row_key, seal(row_key, pack_u64(msg_id & _DELAYED_MARK) + pack_u64(until_ms)))
        row = expiry_key(mailbox.shelf.expiry_slot, until_ms, ExpiryKind.DEDUP, row_key)
        batch.put(Table.EXPIRY, row, seal(row, b""))
        mailbox.staged_ids[idempotency_id] = msg_id

    # --- Compaction keys --------------------------------------------------------------------------------------

    def older_of_key(self, mailbox: Mailbox, key: bytes) -> OfKey | None:
        """The message that has the key now: staged, or stored and unexpired; None when there is none."""
        staged = mailbox.staged_keys.get(key)
        return staged if staged is not None else self.newest_of_key(mailbox, key)

    def says_nothing_new(self, mailbox: Mailbox, older: OfKey, tier: int, message: StoredMessage, done: Sent) -> bool:
        """Answer a message that repeats what its key says already with the id of that; False when it says more."""
        row, header, payload, staged = older
        if (
            row.tier != tier
            or payload != message.payload
            or without_idempotency_id(header) != without_idempotency_id(message.header)
        ):
            return False
        self.counters.duplicates += 1
        if staged:
            mailbox.shelf.commit.then(done, row.msg_id, True)
        else:
            done(None, row.msg_id, True)
        return True

    def replace(self, mailbox: Mailbox, older: OfKey | None) -> Doomed | None:
        """Take the older message of a key away in the open batch, in which the caller stages the newer one."""
        if older is None:
            return None
        self.counters.replaced_by_key += 1
        self.deleting.stage(mailbox, older.row)
        return older.row

    def newest_of_key(self, mailbox: Mailbox, key: bytes) -> OfKey | None:
        """The stored, unexpired message of a key, or None."""
        store = mailbox.shelf.store
        row_key = key_key(mailbox.id, key)
        row = store.get(Table.KEY, row_key)
        if row is None:
            return None
        tier, msg_id = unpack_key_row(unseal(row_key, row))
        old_key = message_key(mailbox.id, tier, msg_id)
        old_row = store.get(Table.MESSAGE, old_key)
        if old_row is None:
            return None
        old = unpack_message(old_key, old_row)
        if old.expires_ms and old.expires_ms <= self.boxes.clock.wall_ms():
            return None
        return OfKey(Doomed(tier, msg_id, len(old_row), old.expires_ms), old.header, old.payload, staged=False)
