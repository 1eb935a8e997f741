"""Snapshots: the state at one entry, sent to a peer whose next entry is no longer in the journal.

There is no snapshot file. The sender reads chunk after chunk from one LMDB read transaction, which holds the state, the
entry it is the state after, and the journal's last entries, all of one moment. The receiver gathers the chunks beside its
data, checks count and checksum, and puts everything into one write transaction: a crash leaves it with the old state or
the new one. PySyncObj's Serializer with its pickled dumps, fork and rename is not used.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meta_service.disk import JOURNAL, NODE, STATE_TABLES, Disk, Snapshot
from meta_service.frames import LENGTH
from meta_service.journal import INDEX, Entry, unpack_entry
from mq9 import limits
from mq9.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

APPLIED_KEY = b"applied"


def checksum(table: int, key: bytes, value: bytes, before: int = 0) -> int:
    """The running CRC-32 over the rows of a state; keys and values cannot trade bytes."""
    return zlib.crc32(value, zlib.crc32(b"%d:%d:%d:" % (table, len(key), len(value)) + key, before))


def state_rows(snapshot: Snapshot) -> Iterator[tuple[int, bytes, bytes]]:
    """(table, key, value) of the whole state, in order."""
    for table in STATE_TABLES:
        for key, value in snapshot.rows(table):
            yield table, key, value


class _Outgoing:
    """One snapshot on its way to one peer."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        applied = snapshot.get(NODE, APPLIED_KEY)
        assert applied is not None, "nothing was applied, so nothing can be missing from the journal"
        self.index: int = INDEX.unpack(applied)[0]
        self._rows = state_rows(snapshot)
        self._number = self._count = self._checksum = 0

    def next_chunk(self) -> pb.SnapshotChunk:
        chunk = pb.SnapshotChunk(index=self.index, number=self._number, last=True)
        if self._number == 0:
            for index in (self.index - 1, self.index):
                key = INDEX.pack(index)
                value = self._snapshot.get(JOURNAL, key)
                assert value is not None, f"entry {index} is not in the journal that the state is of"
                command, _, term = unpack_entry(key, value)
                chunk.entries.append(pb.Entry(term=term, command=command))
        self._number += 1
        size = 0
        for table, key, value in self._rows:
            chunk.rows.append(pb.SnapshotRow(table=table, key=key, value=value))
            self._count += 1
            self._checksum = checksum(table, key, value, self._checksum)
            size += len(key) + len(value) + 16
            if size >= limits.META_SNAPSHOT_CHUNK_BYTES:
                chunk.last = False
                break
        if chunk.last:
            chunk.row_count = self._count
            chunk.checksum = self._checksum
        return chunk

    def close(self) -> None:
        self._rows.close()  # type: ignore[attr-defined]  # a generator: its cursor must go before its transaction
        self._snapshot.close()


@dataclass(slots=True)
class Incoming:
    """A whole snapshot that was received: the entries its state is of, and where its rows are."""

    entries: list[Entry]  # index - 1 and index
    path: Path

    @property
    def index(self) -> int:
        return self.entries[-1][1]

    def rows(self) -> Iterator[pb.SnapshotRow]:
        with self.path.open("rb") as file:
            while head := file.read(LENGTH.size):
                yield from pb.SnapshotChunk.FromString(file.read(LENGTH.unpack(head)[0])).rows


class Snapshots:
    """Sends and receives snapshots."""

    def __init__(self, disk: Disk, make_durable: Callable[[], None]) -> None:
        """`make_durable` commits the state as it is, so that what is sent is not older than the journal's beginning."""
        self._disk = disk
        self._make_durable = make_durable
        self._outgoing: dict[str, _Outgoing] = {}
        self._path = disk.directory / "incoming-snapshot"
        self._path.unlink(missing_ok=True)
        self._expected = -1  # number of the next chunk; -1: none is expected
        self._index = self._count = self._checksum = 0
        self._entries: list[Entry] = []

    def next_chunk(self, peer: str) -> pb.SnapshotChunk:
        """The next piece for this peer, beginning a new snapshot when none is on its way."""
        if peer not in self._outgoing:
            self._make_durable()
            self._outgoing[peer] = _Outgoing(self._disk.open_snapshot())
            log.info("sending %s a snapshot as of entry %d", peer, self._outgoing[peer].index)
        chunk = self._outgoing[peer].next_chunk()
        if chunk.last:
            self.cancel(peer)
        return chunk

    def cancel(self, peer: str) -> None:
        """The peer is gone, or has everything: let the read transaction go."""
        outgoing = self._outgoing.pop(peer, None)
        if outgoing is not None:
            outgoing.close()

    def take(self, chunk: pb.SnapshotChunk) -> Incoming | None:
        """Keep a chunk; the snapshot when this one completed it. Chunks that belong to nothing are dropped."""
        if chunk.number == 0 and len(chunk.entries) == 2 and chunk.index >= 2:
            self._begin(chunk)
        elif chunk.number != self._expected or chunk.index != self._index:
            self._expected = -1  # a piece is missing: whatever follows belongs to nothing
            return None
        self._expected = chunk.number + 1
        for row in chunk.rows:
            self._count += 1
            self._checksum = checksum(row.table, row.key, row.value, self._checksum)
        body = chunk.SerializeToString()
        with self._path.open("ab") as file:
            file.write(LENGTH.pack(len(body)) + body)
        if not chunk.last:
            return None
        self._expected = -1
        if (chunk.row_count, chunk.checksum) != (self._count, self._checksum):
            log.error("a snapshot as of entry %d came damaged; waiting for another", chunk.index)
            return None
        return Incoming(self._entries, self._path)

    def _begin(self, chunk: pb.SnapshotChunk) -> None:
        self._path.unlink(missing_ok=True)
        self._index, self._count, self._checksum = chunk.index, 0, 0
        first = chunk.index - 1
        self._entries = [(entry.command, first + n, entry.term) for n, entry in enumerate(chunk.entries)]

    def close(self) -> None:
        for peer in list(self._outgoing):
            self.cancel(peer)
