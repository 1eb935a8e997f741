"""Reading messages in order, for those who leave no trace: QUERY, stateless FETCH, and finding where to start."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Fetched, Mailbox
from mq9.errors import StorageError
from mq9.limits import FETCH_BYTES_MAX, QUERY_SCAN_MAX
from mq9.protocol.message import StoredMessage
from mq9.storage.interface import Table
from mq9.storage.layout import TIERS, message_key, tier_range
from mq9.storage.records import unpack_message

_CHUNK: Final = 128


def has_tags(message: StoredMessage, wanted: tuple[bytes, ...]) -> bool:
    """Whether the message carries every wanted tag."""
    if not wanted:
        return True
    tags = message.tags.split(b",")
    return all(tag in tags for tag in wanted)


class Walking:
    """See the module."""

    def __init__(self, boxes: Mailboxes) -> None:
        self.boxes = boxes

    def live(self, mailbox: Mailbox, row_key: bytes, row: bytes, now_ms: int) -> StoredMessage | None:
        """The message in a row, or None if it has expired or is damaged (which is reported).

        Raises DATA_DAMAGED where another broker has it whole: nobody must be told, and no group go on, as if it were not there.
        """
        try:
            message = unpack_message(row_key, row)
        except StorageError as failure:
            self.boxes.note_damage(mailbox, failure)
            if self.boxes.is_whole_elsewhere():
                raise
            return None
        if message.expires_ms and message.expires_ms <= now_ms:
            return None
        return message

    @staticmethod
    def beyond(row_key: bytes, row: bytes, after_id: int) -> int:
        """The id to go on after when the row that follows `after_id` is not shown. That of a damaged row cannot be believed:
        going on behind it could skip messages, or begin again before it."""
        try:
            unpack_message(row_key, row)
        except StorageError:
            return after_id + 1
        return int.from_bytes(row_key[-8:], "big")

    def read(self, mailbox: Mailbox, tier: int, msg_id: int, now_ms: int) -> StoredMessage | None:
        """One message by its id, or None when it is not there any more."""
        row_key = message_key(mailbox.id, tier, msg_id)
        row = mailbox.shelf.store.get(Table.MESSAGE, row_key)
        return None if row is None else self.live(mailbox, row_key, row, now_ms)

    def tier(self, mailbox: Mailbox, tier: int, after_id: int) -> Iterator[tuple[int, int, StoredMessage, int]]:
        """The live messages of a tier after `after_id` as (msg_id, tier, message, record size), in id order."""
        if not mailbox.counts[tier]:
            return
        now_ms = self.boxes.clock.wall_ms()
        visible_id = mailbox.visible_id
        while after_id < visible_id:
            start, stop = tier_range(mailbox.id, tier, after_id, visible_id)
            rows = mailbox.shelf.store.scan(Table.MESSAGE, start, stop, _CHUNK, FETCH_BYTES_MAX)
            for row_key, row in rows:
                message = self.live(mailbox, row_key, row, now_ms)
                if message is None:
                    after_id = self.beyond(row_key, row, after_id)
                    continue
                after_id = int.from_bytes(row_key[-8:], "big")
                yield after_id, tier, message, len(row)
            if not rows:
                return

    def stateless(self, mailbox: Mailbox, after_id: int, count: int, tags: tuple[bytes, ...]) -> list[Fetched]:
        """Up to `count` messages after `after_id`, tier by tier; nothing is recorded."""
        found: list[Fetched] = []
        budget = FETCH_BYTES_MAX
        for tier in range(TIERS):
            if len(found) >= count or budget <= 0:
                break
            for msg_id, _, message, size in self.tier(mailbox, tier, after_id):
                if not has_tags(message, tags):
                    continue
                found.append(Fetched(tier, msg_id, message, 0))
                budget -= size
                if len(found) >= count or budget <= 0:
                    break
        return found

    def query(self, mailbox: Mailbox, tags: tuple[bytes, ...], since_ms: int, limit: int) -> list[Fetched]:
        """Up to `limit` messages in id order over all tiers, created at or after `since_ms`, with all of `tags`."""
        after_id = self.first_id_at(mailbox, since_ms) - 1 if since_ms else 0
        found: list[Fetched] = []
        budget = FETCH_BYTES_MAX
        # Ids are unique over the tiers, so the merge never compares beyond them.
        merged = heapq.merge(*(self.tier(mailbox, tier, after_id) for tier in range(TIERS)))
        for looked_at, (msg_id, tier, message, size) in enumerate(merged, 1):
            if has_tags(message, tags):
                found.append(Fetched(tier, msg_id, message, 0))
                budget -= size
            if len(found) >= limit or budget <= 0 or looked_at >= QUERY_SCAN_MAX:
                break
        return found

    def newest_id(self, mailbox: Mailbox) -> int:
        """The greatest id that is stored and live, or 0."""
        now_ms = self.boxes.clock.wall_ms()
        newest = 0
        for tier in range(TIERS):
            until_id = mailbox.visible_id
            while until_id > newest and mailbox.counts[tier]:
                row = mailbox.shelf.store.last(Table.MESSAGE, *tier_range(mailbox.id, tier, newest, until_id))
                if row is None:
                    break
                msg_id = int.from_bytes(row[0][-8:], "big")
                if self.live(mailbox, *row, now_ms) is not None:
                    newest = msg_id
                until_id = msg_id - 1
        return newest

    def oldest(self, mailbox: Mailbox) -> StoredMessage | None:
        """The live message that has been there longest, or None."""
        firsts = (next(self.tier(mailbox, tier, 0), None) for tier in range(TIERS))
        return min((first[2] for first in firsts if first is not None), key=lambda message: message.create_ms, default=None)

    def first_id_at(self, mailbox: Mailbox, moment_ms: int) -> int:
        """The smallest id whose message was created at or after `moment_ms`; one past the last when there is none.

        Create times never fall inside a mailbox, so each tier is searched by halving.
        """
        first = mailbox.visible_id + 1
        store = mailbox.shelf.store
        for tier in range(TIERS):
            low, high = 1, first
            while low < high and mailbox.counts[tier]:
                middle = (low + high) // 2
                rows = store.scan(Table.MESSAGE, *tier_range(mailbox.id, tier, middle - 1, high - 1), 1)
                if not rows:
                    high = middle
                    continue
                msg_id = int.from_bytes(rows[0][0][-8:], "big")
                if unpack_message(*rows[0]).create_ms >= moment_ms:
                    # Nothing lies between `middle` and this message, so it is the least from `middle` on.
                    first = min(first, msg_id)
                    high = middle
                else:
                    low = msg_id + 1
        return first
