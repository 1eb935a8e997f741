"""Which mailboxes there are: finding, making and removing them, and keeping the busy ones in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from broker_node.counters import Counters
from broker_node.mailbox.model import EMPTY_STATE, NEVER_MS, Definition, Mailbox, Shelf
from broker_node.mailbox.timers import TimerHeap
from mq9.clock import Clock
from mq9.errors import Mq9Error, StorageError, error
from mq9.limits import ACTIVE_MAILBOXES_MAX, SLOTS
from mq9.protocol.address import base36, new_address
from mq9.settings import Settings
from mq9.storage.interface import Table
from mq9.storage.layout import ExpiryKind, expiry_key, mailbox_id, mailbox_key, pack_u64, slot_of, slot_range
from mq9.storage.records import seal, unpack_state, unseal

# Called when the change it was given to is durable, or with the error why it is not.
Done = Callable[[Mq9Error | None], None]

log = logging.getLogger("mq9.mailboxes")

_EVICT_STEP: Final = 256
_LIST_CHUNK: Final = 512
_TURNED: Final = 4  # last characters of a random address that are counted up until it is of the slot
_definitions: Final = msgspec.msgpack.Decoder(Definition)


def ignore(*_: object) -> None:
    """What a hook does until its room has set it."""


def nowhere() -> bool:
    """Outside a cluster there is one copy of everything."""
    return False


class Mailboxes:
    """Every mailbox of one partition. The other rooms of the domain get at mailboxes, time and stores through it."""

    def __init__(self, durable: Shelf, memory: Shelf, clock: Clock, settings: Settings, counters: Counters) -> None:
        self.durable = durable
        self.memory = memory
        self.clock = clock
        self.settings = settings
        self.counters = counters
        self.slots = SLOTS  # of the cluster
        self.timers = TimerHeap()
        self.storage_failure = ""  # why the store takes nothing any more; empty while it does
        self.active: dict[bytes, Mailbox] = {}
        self.by_id: dict[int, Mailbox] = {}  # the same mailboxes
        for shelf in (durable, memory):
            shelf.commit.on_failure = partial(self.commit_failed, shelf)
        self.on_load: Callable[[Mailbox], object] = ignore  # delayed.py looks for what fell due meanwhile
        self.on_active: Callable[[Mailbox], None] = ignore  # pushing.py sees whether somebody subscribed to it
        self.on_damaged: Callable[[StorageError], None] = ignore
        self.is_whole_elsewhere: Callable[[], bool] = nowhere  # in a cluster: what is damaged here will be repaired
        self.on_removed: Callable[[Mailbox], None] = ignore  # fetching.py answers those who wait
        self.on_listed: Callable[[Mailbox, str], None] = ignore  # a public mailbox came or went
        self.count_all: Callable[[], int] = self.count  # on this node, also those of other partitions

    def count(self) -> int:
        """Live mailboxes of this partition."""
        return self.durable.mailboxes + self.memory.mailboxes

    # --- Finding ----------------------------------------------------------------------------------------------

    def find(self, address: bytes) -> Mailbox:
        """The live mailbox at `address`; raises MAILBOX_NOT_FOUND."""
        mailbox = self.lookup(address)
        if mailbox is None:
            raise error("MAILBOX_NOT_FOUND", name=address.decode("utf-8", "replace"))
        return mailbox

    def lookup(self, address: bytes) -> Mailbox | None:
        """The live mailbox at `address`, or None."""
        mailbox = self.active.get(address)
        if mailbox is None:
            mailbox = self._load(address)
            if mailbox is None:
                return None
        if mailbox.expires_ms != NEVER_MS and mailbox.expires_ms <= self.clock.wall_ms():
            return None
        return mailbox

    def of_id(self, shelf: Shelf, mailbox_id: int) -> Mailbox | None:
        """The mailbox with that id, expired or not; None when it is gone."""
        mailbox = self.by_id.get(mailbox_id)
        if mailbox is not None:
            return mailbox
        key = pack_u64(mailbox_id)
        row = shelf.store.get(Table.STATE, key)
        if row is None:
            return None
        mailbox = self._load(unpack_state(key, row).address)
        return mailbox if mailbox is not None and mailbox.id == mailbox_id else None

    def _load(self, address: bytes) -> Mailbox | None:
        try:
            return self._read(address)
        except StorageError as failure:  # whoever wants the mailbox, and not all of them answer somebody
            self.on_damaged(failure)
            raise

    def _read(self, address: bytes) -> Mailbox | None:
        if not address or len(address) > 256:
            return None
        for shelf in (self.durable, self.memory):
            definition = self.definition(shelf, address)
            if definition is not None:
                break
        else:
            return None
        key = pack_u64(definition.mailbox)
        row = shelf.store.get(Table.STATE, key)
        mailbox = Mailbox(address, definition, unpack_state(key, row) if row else EMPTY_STATE, shelf)
        self._keep(mailbox)
        if mailbox.delayed:
            self.on_load(mailbox)
        return mailbox

    @staticmethod
    def definition(shelf: Shelf, address: bytes) -> Definition | None:
        """The stored definition of `address` on one shelf, expired or not."""
        key = mailbox_key(address, shelf.slot)
        row = shelf.store.get(Table.MAILBOX, key)
        return _definitions.decode(unseal(key, row)) if row else None

    def _keep(self, mailbox: Mailbox) -> None:
        active = self.active
        if len(active) >= ACTIVE_MAILBOXES_MAX:
            for old in list(islice(active.values(), _EVICT_STEP)):
                self._drop(old)
                if not old.idle:
                    self._put(old)  # to the back of the line
        self._put(mailbox)
        self.on_active(mailbox)

    def _put(self, mailbox: Mailbox) -> None:
        self.active[mailbox.address] = mailbox
        self.by_id[mailbox.id] = mailbox

    def _drop(self, mailbox: Mailbox) -> None:
        if self.active.get(mailbox.address) is mailbox:
            del self.active[mailbox.address]
        self.by_id.pop(mailbox.id, None)

    def note_damage(self, mailbox: Mailbox, failure: StorageError) -> None:
        """A record failed its checksum: it is not served, and the operator is told."""
        self.counters.damaged_records += 1
        log.error("damaged record in mailbox id %d: %s; run `mq9 verify`", mailbox.id, failure.text)
        self.on_damaged(failure)

    def unused_address(self) -> bytes:
        """A fresh address that nobody can guess, of this partition's slot."""
        # Two equal ones in 36**26 will not be met; if they are, the second must not be given away.
        while self.lookup(address := self._random_address()) is not None:
            pass
        return address

    def _random_address(self) -> bytes:
        address = new_address()
        slot = self.durable.slot
        if slot is None:
            return address
        # Cheaper than making new ones until one fits: 8 to 12 of its 134 bits are given up either way.
        while slot_of(address, self.slots) != slot:
            turned = int(address[-_TURNED:], 36) + 1
            address = address[:-_TURNED] + base36(turned % 36**_TURNED, _TURNED)
        return address

    # --- Making -----------------------------------------------------------------------------------------------

    def create(self, address: bytes, wanted: Definition, done: Done) -> Mailbox:
        """Make the mailbox; the caller has seen that no live one has the address. `done` when it is durable.

        `wanted` carries everything but the id. It can be used at once: what is staged after it commits after it.
        """
        shelf = self.memory if wanted.memory else self.durable
        if not shelf.writable:
            raise error("STORAGE_FULL")
        if self.count_all() >= self.settings.max_mailboxes:
            raise error("LIMIT_EXCEEDED", reason=f"{self.settings.max_mailboxes} mailboxes")
        self._retire_expired(address)
        shelf.sequence += 1
        shelf.mailboxes += 1
        shelf.counters_touched = True
        definition = msgspec.structs.replace(wanted, mailbox=mailbox_id(address, shelf.sequence, shelf.slot))
        mailbox = Mailbox(address, definition, EMPTY_STATE, shelf)
        mailbox.groups_loaded = True
        mailbox.staged_ops += 1
        self._keep(mailbox)
        key = mailbox_key(address, shelf.slot)
        batch = shelf.commit.batch
        batch.put(Table.MAILBOX, key, seal(key, msgspec.msgpack.encode(definition)))
        shelf.touch(mailbox)
        if definition.expires_ms:
            row = expiry_key(shelf.expiry_slot, definition.expires_ms, ExpiryKind.MAILBOX, pack_u64(mailbox.id) + key)
            batch.put(Table.EXPIRY, row, seal(row, b""))
        shelf.commit.then(self._created, mailbox, done)
        return mailbox

    def _created(self, failure: Mq9Error | None, mailbox: Mailbox, done: Done) -> None:
        mailbox.staged_ops -= 1
        if failure is not None:
            mailbox.removed = True
            self._drop(mailbox)
        elif mailbox.definition.public:
            self.on_listed(mailbox, "created")
        done(failure)

    def _retire_expired(self, address: bytes) -> None:
        """An expired mailbox may still have the address; its rows go to the trash before the name is used again."""
        old = self.active.get(address) or self._load(address)
        if old is not None:
            self.retire(old)

    # --- Removing ---------------------------------------------------------------------------------------------

    def retire(self, mailbox: Mailbox) -> None:
        """Take the mailbox away in the open batch; its messages are deleted later, in bounded steps."""
        shelf = mailbox.shelf
        batch = shelf.commit.batch
        key = pack_u64(mailbox.id)
        batch.delete(Table.MAILBOX, mailbox_key(mailbox.address, shelf.slot))
        batch.delete(Table.STATE, key)
        batch.put(Table.TRASH, key, seal(key, b""))
        mailbox.removed = True
        shelf.mailboxes -= 1
        shelf.counters_touched = True
        self._drop(mailbox)
        if mailbox.delay_timer is not None:
            mailbox.delay_timer.cancel()
            mailbox.delay_timer = None
        for group in mailbox.groups.values():
            group.end_all_leases()
        self.on_removed(mailbox)
        if mailbox.definition.public:
            self.on_listed(mailbox, "expired")

    def remove(self, mailbox: Mailbox, done: Done) -> None:
        """Remove a live mailbox with everything in it. `done` when that is durable."""
        self.retire(mailbox)
        mailbox.shelf.commit.then(done)

    # --- When a commit fails --------------------------------------------------------------------------------------

    def commit_failed(self, shelf: Shelf, failure: Mq9Error) -> None:
        """Nothing that was staged happened: whatever memory holds of it goes back to what the store has.

        The group commit calls this before it tells those who wait.
        """
        shelf.writable = shelf.writable and failure.code != "STORAGE_FULL"
        if isinstance(failure, StorageError):
            self.storage_failure = failure.text
        for mailbox in shelf.touched:
            mailbox.touched = False
        shelf.touched.clear()
        shelf.load_counters()
        for mailbox in self.active.values():
            if mailbox.shelf is shelf and (mailbox.staged_ops or mailbox.staged_acks):
                for group in list(mailbox.groups.values()):
                    group.end_all_leases()
                mailbox.groups.clear()
                key = pack_u64(mailbox.id)
                row = shelf.store.get(Table.STATE, key)
                mailbox.reset(unpack_state(key, row) if row else EMPTY_STATE)

    # --- Listing ----------------------------------------------------------------------------------------------

    def page(self, shelf: Shelf, after: bytes, limit: int) -> tuple[list[tuple[bytes, Definition]], bytes]:
        """The live ones among the next `limit` mailboxes of a shelf, as (address, definition), and the row key to go on
        after; that is empty at the end."""
        start, stop = slot_range(shelf.slot)
        rows = shelf.store.scan(Table.MAILBOX, after + b"\0" if after else start, stop, limit)
        now_ms = self.clock.wall_ms()
        found = []
        for key, value in rows:
            definition = _definitions.decode(unseal(key, value))
            if not definition.expires_ms or definition.expires_ms > now_ms:
                found.append((key[2:], definition))
        return found, rows[-1][0] if len(rows) == limit else b""

    def public_page(self, after: bytes, prefix: bytes, limit: int, look_max: int) -> tuple[list[bytes], bytes]:
        """Addresses of up to `limit` public mailboxes that begin with `prefix`, and where the next page goes on (empty at
        the end). `after` is such a place: a byte for the shelf, then a row key. At most `look_max` rows are looked at."""
        shelves = (self.durable, self.memory)
        at, row_key = (after[0], after[1:]) if after else (0, b"")
        found: list[bytes] = []
        while at < len(shelves):
            rows, following = self.page(shelves[at], row_key, min(_LIST_CHUNK, look_max))
            look_max -= _LIST_CHUNK
            for address, definition in rows:
                if definition.public and address.startswith(prefix):
                    found.append(address)
                    if len(found) >= limit:
                        return found, bytes((at,)) + mailbox_key(address, shelves[at].slot)
            row_key = following
            if not following:
                at += 1
            if look_max <= 0:
                return found, bytes((at,)) + row_key if at < len(shelves) else b""
        return found, b""
