"""Raft's log on the disk: what PySyncObj asks of a journal, with the fsync where it must be.

Entries are held in memory too, in order and without gaps: PySyncObj reads them by position. A change is written to the
disk's open transaction at once and is durable after `flush`; whoever acknowledges an entry flushes before. A new term or
vote is durable when `setCurrentTerm` returns, because the answer to a vote request leaves right after.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, overload

from pysyncobj.journal import Journal

from meta_service.disk import JOURNAL, NODE, Disk
from mq9.errors import error

Entry = tuple[bytes, int, int]  # command with its kind in front, index, term

INDEX = struct.Struct(">Q")
_TERM = struct.Struct(">Q")
HARD_STATE_KEY = b"hard"
_HARD = struct.Struct(">QQ")  # term, commit index; then the name voted for
NO_OP = b"\x01"  # PySyncObj's command kind of entries without a command


def pack_entry(entry: Entry) -> bytes:
    """The value of an entry's row."""
    return _TERM.pack(entry[2]) + entry[0]


def unpack_entry(key: bytes, value: bytes) -> Entry:
    """The entry of a row."""
    return value[_TERM.size :], INDEX.unpack(key)[0], _TERM.unpack_from(value)[0]


class LmdbJournal(Journal):  # type: ignore[misc]  # PySyncObj is published without types
    """The log. Never empty: it begins with the entry before the first that anyone may ask for."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._dirty = False
        # Called before every commit: the state machine adds which entry its rows are the state after.
        self.before_flush: Callable[[], None] = lambda: None
        with disk.snapshot() as snapshot:
            self._entries: list[Entry] = [unpack_entry(key, value) for key, value in snapshot.rows(JOURNAL)]
            hard = snapshot.get(NODE, HARD_STATE_KEY)
        self._term: int
        self._commit: int
        self._term, self._commit = _HARD.unpack_from(hard) if hard else (0, 1)
        self._vote = hard[_HARD.size :].decode() if hard else ""
        self.bytes = sum(len(entry[0]) for entry in self._entries)
        self._check_order()
        if not self._entries:
            self.add(NO_OP, 1, 0)
            self.flush(force=True)

    def _check_order(self) -> None:
        for (_, before, term), (_, after, next_term) in zip(self._entries, self._entries[1:], strict=False):
            if after != before + 1 or next_term < term:
                raise error("DATA_DAMAGED", reason=f"the journal goes from entry {before} to {after}")

    @property
    def first_index(self) -> int:
        return self._entries[0][1]

    @property
    def last_index(self) -> int:
        return self._entries[-1][1]

    @property
    def last_term(self) -> int:
        return self._entries[-1][2]

    @property
    def is_blank(self) -> bool:
        """Nothing was ever agreed here: only the entry that every log begins with."""
        return self.last_index == 1

    def term_at(self, index: int) -> int | None:
        """The term of an entry, or None when the log does not have it."""
        position = index - self.first_index
        return self._entries[position][2] if 0 <= position < len(self._entries) else None

    def first_of_term(self, index: int, stop: int) -> int:
        """The first entry of the run of equal terms that ends at `index`, not before `stop`."""
        term = self.term_at(index)
        while index > stop and self.term_at(index - 1) == term:
            index -= 1
        return index

    # --- What PySyncObj calls; its names and its meanings: positions, not indexes -----------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        assert not self._entries or idx == self.last_index + 1, f"entry {idx} after {self.last_index}"
        entry = (command, idx, term)
        self._entries.append(entry)
        self.bytes += len(command)
        self._disk.put(JOURNAL, INDEX.pack(idx), pack_entry(entry))
        self._dirty = True

    def clear(self) -> None:
        self._entries = []
        self.bytes = 0
        self._disk.clear(JOURNAL)
        self._dirty = True

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803  # PySyncObj's name
        if entryFrom >= len(self._entries):
            return
        self._disk.delete_range(JOURNAL, INDEX.pack(self._entries[entryFrom][1]), None)
        self.bytes -= sum(len(entry[0]) for entry in self._entries[entryFrom:])
        del self._entries[entryFrom:]
        self._dirty = True

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803  # PySyncObj's name
        if entryTo <= 0:
            return
        assert entryTo < len(self._entries), "the log must not become empty"
        self._disk.delete_range(JOURNAL, b"", INDEX.pack(self._entries[entryTo][1]))
        self.bytes -= sum(len(entry[0]) for entry in self._entries[:entryTo])
        del self._entries[:entryTo]
        self._dirty = True

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: Any) -> Any:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803  # PySyncObj's name
        """Not worth an fsync of its own: a log that forgets how far it was committed learns it again from the leader."""
        self._commit = raftCommitIndex

    def getRaftCommitIndex(self) -> int:  # noqa: N802  # PySyncObj's name
        return self._commit

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803  # PySyncObj's name
        self._term = term
        self._vote = votedForNodeId or ""
        self.flush(force=True)

    def getCurrentTerm(self) -> int:  # noqa: N802  # PySyncObj's name
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802  # PySyncObj's name
        return self._vote or None

    def onOneSecondTimer(self) -> None:  # noqa: N802  # PySyncObj's name
        """Nothing waits for a timer here."""

    def _destroy(self) -> None:
        """The disk outlives the journal; whoever opened it closes it."""

    # --- Durability -------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Something that others may rely on is not durable yet."""
        return self._dirty

    def flush(self, *, force: bool = False) -> None:
        """Make everything durable that is not, with one fsync; with `force` also what nobody relies on yet."""
        if not self._dirty and not force:
            return
        self.before_flush()
        self._disk.put(NODE, HARD_STATE_KEY, _HARD.pack(self._term, self._commit) + self._vote.encode())
        self._disk.commit()
        self._dirty = False
