"""A workload whose outcome is known: after commit N the store must hold exactly these rows, and no others are possible.

Commit N sends a few messages to mailboxes and deletes some that were sent a while ago, as a broker does: messages, STATE
rows with their counts, keys, expiries. Everything follows from N, so a store can be checked by the number it has come to.
"""

from __future__ import annotations

import random

from mq9.errors import StorageError
from mq9.protocol.message import StoredMessage
from mq9.storage import layout, records
from mq9.storage.interface import Batch, Store, Table

MAILBOXES = 5
COMMITS = 60  # of the stores that are damaged on purpose
LIFETIME = 12  # commits a message lives
END = b"\xff" * 64
NUMBER_KEY = b"ledger"  # META: the number of the newest commit


class LedgerError(Exception):
    """The store does not hold what the ledger says."""


class Ledger:
    """Makes the batches, and remembers what they add up to in `rows`."""

    def __init__(self) -> None:
        self.number = 0
        self.rows: dict[tuple[Table, bytes], bytes] = {}
        self._sent: list[list[tuple[int, bytes]]] = []  # per commit: (mailbox, message key)
        self._states = [records.MailboxState(0, (0, 0, 0, 0), 0, 0, 1, b"box%d" % n) for n in range(MAILBOXES)]

    def next_batch(self) -> Batch:
        """The batch of the next commit."""
        self.number += 1
        rng = random.Random(self.number)
        batch = Batch()
        self._sent.append([])
        for _ in range(rng.randint(1, 6)):
            self._send(batch, rng)
        if self.number > LIFETIME:
            for mailbox, key in self._sent[self.number - LIFETIME - 1]:
                self._delete(batch, mailbox, key)
        for mailbox, state in enumerate(self._states):
            key = layout.pack_u64(mailbox)
            self._put(batch, Table.STATE, key, records.pack_state(key, state))
        self._put(batch, Table.META, NUMBER_KEY, records.seal(NUMBER_KEY, layout.pack_u64(self.number)))
        return batch

    def _send(self, batch: Batch, rng: random.Random) -> None:
        mailbox = rng.randrange(MAILBOXES)
        tier = rng.randrange(layout.TIERS)
        state = self._states[mailbox]
        msg_id = state.last_id + 1
        size = rng.choice((10, 256, 256, 256, 2000, 20_000))
        key = layout.message_key(mailbox, tier, msg_id)
        record = records.pack_message(key, StoredMessage(msg_id, 0, b"", b"", b"", b"", rng.randbytes(size)))
        self._put(batch, Table.MESSAGE, key, record)
        expiry = layout.expiry_key(0, rng.getrandbits(40), layout.ExpiryKind.MESSAGE, key)
        self._put(batch, Table.EXPIRY, expiry, records.seal(expiry, b""))
        dedup = layout.dedup_key(mailbox, rng.randbytes(12))
        self._put(batch, Table.DEDUP, dedup, records.seal(dedup, layout.pack_u64(msg_id)))
        self._sent[-1].append((mailbox, key))
        self._count(mailbox, tier, 1, len(record), msg_id)

    def _delete(self, batch: Batch, mailbox: int, key: bytes) -> None:
        size = len(self.rows.pop((Table.MESSAGE, key)))
        batch.delete(Table.MESSAGE, key)
        self._count(mailbox, layout.unpack_message_key(key)[1], -1, -size, self._states[mailbox].last_id)

    def _count(self, mailbox: int, tier: int, rows: int, size: int, last_id: int) -> None:
        state = self._states[mailbox]
        c0, c1, c2, c3 = (count + rows * (tier == n) for n, count in enumerate(state.counts))
        self._states[mailbox] = state._replace(last_id=last_id, counts=(c0, c1, c2, c3), size=state.size + size)

    def _put(self, batch: Batch, table: Table, key: bytes, value: bytes) -> None:
        batch.put(table, key, value)
        self.rows[table, key] = value


def number_of(store: Store) -> int:
    """The newest commit the store holds."""
    value = store.get(Table.META, NUMBER_KEY)
    return 0 if value is None else layout.unpack_u64(records.unseal(NUMBER_KEY, value))


def compare(store: Store) -> tuple[int, int, int]:
    """(wrong, damaged, missing) rows of a store that held the ledger's COMMITS commits, read as a broker reads: `wrong` pass
    their checksum and are not what was stored."""
    ledger = Ledger()
    for _ in range(COMMITS):
        ledger.next_batch()
    expected = ledger.rows
    wrong = damaged = 0
    for table in Table:
        for key, value in store.scan(table, b"", END, 1 << 30):
            if table == Table.META and key != NUMBER_KEY:
                continue
            stored = expected.pop((table, key), None)
            try:
                payload = records.unseal(key, value)
            except StorageError:
                damaged += 1
            else:
                wrong += stored is None or records.unseal(key, stored) != payload
    return wrong, damaged, len(expected)


def check(store: Store) -> int:
    """The newest commit; raises LedgerError when the store does not hold exactly what that commit leaves."""
    number = number_of(store)
    ledger = Ledger()
    for _ in range(number):
        ledger.next_batch()
    expected = ledger.rows
    found = 0
    for table in Table:
        for key, value in store.scan(table, b"", END, 1 << 30):
            if table == Table.META and key != NUMBER_KEY:
                continue
            found += 1
            if expected.get((table, key)) != value:
                raise LedgerError(f"commit {number}: {table.name} {key.hex()} is not what it should be")
    if found != len(expected):
        raise LedgerError(f"commit {number}: {found} rows of {len(expected)}")
    return number
