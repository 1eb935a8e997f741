"""What sockets have taken of what was pushed to them, from that moment until the commit that confirms it.

What a process has written to a file outlives the process, synced or not; only the end of the machine takes it away. So a note
in here costs a write to the page cache, and after a `kill -9` it tells those of the last messages that were handed out from
those that were not.

A note never becomes wrong, and may be read twice. So nothing is deleted: once all that was noted is confirmed durably, the
file is written from its beginning again, over notes that nobody needs.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from mq9.storage.interface import Store

log = logging.getLogger("mq9.storage")

RECEIPTS_FILE: Final = "pushed%s.receipts"  # with the slot in it, in a cluster
RECEIPTS_BYTES_MAX: Final = 4 * 1024 * 1024

_NOTE: Final = struct.Struct(">QIBQQ")
_CHECK: Final = struct.Struct(">I")
_RECORD_BYTES: Final = _NOTE.size + _CHECK.size

Range = tuple[int, int, int]  # tier, low, high: the messages with low < id <= high


class Receipt(NamedTuple):
    """These messages of a mailbox reached a member of a group."""

    mailbox: int
    group_id: int
    tier: int
    low: int
    high: int


class Receipts:
    """One file of notes. A file that cannot be written costs nothing but the knowledge: what it would have told apart is
    offered again after a kill."""

    __slots__ = ("_at", "_fd", "_open", "_path")

    def __init__(self, store: Store, slot: int | None) -> None:
        """Beside `store`; one that lies nowhere is gone with the process anyway."""
        directory: Path | None = getattr(store, "directory", None)
        self._path = None if directory is None else directory / (RECEIPTS_FILE % ("" if slot is None else f"-{slot}"))
        self._fd = -1
        self._at = 0  # where the next note goes
        self._open = 0  # notes that are not confirmed

    def _opened(self, flags: int) -> bool:
        """Whether the file is open now. It is made by the first note: most slots of a cluster never have one."""
        if self._fd < 0 and self._path is not None:
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            except FileNotFoundError:
                return False
            except OSError as failure:
                log.warning("%s cannot be opened: %s", self._path, failure)
                self._path = None
        return self._fd >= 0

    def read(self) -> list[Receipt]:
        """What an earlier process has noted; further notes go behind it until that is confirmed too."""
        if not self._opened(0):
            return []
        try:
            data = os.pread(self._fd, 2 * RECEIPTS_BYTES_MAX, 0)
        except OSError as failure:
            log.warning("%s cannot be read: %s", self._path, failure)
            return []
        whole = len(data) - len(data) % _RECORD_BYTES
        self._at = whole
        records = (data[at : at + _RECORD_BYTES] for at in range(0, whole, _RECORD_BYTES))
        return [
            Receipt._make(_NOTE.unpack_from(record))
            for record in records
            if _CHECK.unpack_from(record, _NOTE.size)[0] == crc32(record[: _NOTE.size])
        ]

    def opened(self) -> None:
        """One more change is on its way that makes notes needless."""
        self._open += 1

    @staticmethod
    def prepare(mailbox: int, group_id: int, ranges: list[Range]) -> bytes:
        """The notes that these ranges were taken."""
        notes = [_NOTE.pack(mailbox, group_id, *each) for each in ranges]
        return b"".join([note + _CHECK.pack(crc32(note)) for note in notes])

    def note(self, prepared: bytes) -> None:
        """Remember it. Call `opened` too, and `confirmed` when what it says is durable otherwise."""
        if self._at > RECEIPTS_BYTES_MAX or not self._opened(os.O_CREAT):
            return
        try:
            os.pwrite(self._fd, prepared, self._at)
        except OSError as failure:
            log.warning("%s cannot be written: %s", self._path, failure)
            self.close()
            return
        self._at += len(prepared)

    def confirmed(self) -> None:
        """What came with one `opened` is durable."""
        self._open -= 1
        if not self._open:
            self._at = 0

    def close(self) -> None:
        """Let go of the file; what it says stays."""
        self._path = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
