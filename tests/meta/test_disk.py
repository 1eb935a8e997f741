"""The disk and the journal: order, damage, who holds the directory, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from meta_service.disk import JOURNAL, NODE, SLOTS, Disk, seal, unseal
from meta_service.journal import INDEX, LmdbJournal
from mq9.errors import Mq9Error


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    found = Disk(tmp_path / "node")
    yield found
    found.close()


def test_a_row_under_another_key_or_with_a_flipped_bit_is_damage() -> None:
    row = seal(b"key", b"value")
    assert unseal(b"key", row) == b"value"
    flipped = [(b"key", _flipped(row, place)) for place in range(len(row))]
    for key, damaged in [(b"kez", row), (b"key", row[:-1]), (b"key", b""), *flipped]:
        with pytest.raises(Mq9Error, match="checksum"):
            unseal(key, damaged)


def _flipped(row: bytes, place: int) -> bytes:
    return row[:place] + bytes([row[place] ^ 1]) + row[place + 1 :]


def test_what_is_not_committed_is_gone_and_what_is_stays(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.put(NODE, b"a", b"1")
    disk.commit()
    disk.put(NODE, b"b", b"2")
    assert disk.get(NODE, b"b") == b"2"
    disk.close()
    disk = Disk(tmp_path)
    with disk.snapshot() as snapshot:
        assert list(snapshot.rows(NODE)) == [(b"a", b"1")]
    disk.close()


def test_a_second_process_on_the_directory_is_refused_by_name(disk: Disk) -> None:
    with pytest.raises(Mq9Error, match="in use by process"):
        Disk(disk.directory)


def test_a_file_that_is_not_lmdb_is_damage(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"x" * 65536)
    with pytest.raises(Mq9Error, match=r"replace this node's disk") as caught:
        Disk(tmp_path)
    assert caught.value.code == "DATA_DAMAGED"
    with pytest.raises(Mq9Error, match=r"replace this node's disk"):
        Disk(tmp_path)  # and the directory was not left locked


def test_ranges_are_read_and_deleted_in_key_order(disk: Disk) -> None:
    for number in range(10):
        disk.put(SLOTS, INDEX.pack(number), b"%d" % number)
    assert disk.delete_range(SLOTS, INDEX.pack(3), INDEX.pack(5)) == 2
    assert disk.delete_range(SLOTS, INDEX.pack(8), None) == 2
    assert [value for _, value in disk.written().rows(SLOTS, INDEX.pack(1), INDEX.pack(7))] == [b"1", b"2", b"5", b"6"]
    disk.commit()


def test_a_snapshot_is_one_moment(disk: Disk) -> None:
    disk.put(NODE, b"a", b"1")
    disk.commit()
    with disk.snapshot() as before:
        disk.put(NODE, b"a", b"2")
        disk.commit()
        assert before.get(NODE, b"a") == b"1"
    with disk.snapshot() as after:
        assert after.get(NODE, b"a") == b"2"


def test_a_failed_write_is_a_storage_failure(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write().commit()  # as if LMDB had given the transaction up: whatever is written now must fail, not vanish
    with pytest.raises(Mq9Error) as caught:
        disk.put(NODE, b"a", b"1")
    assert caught.value.code == "STORAGE_FAILED"
    with pytest.raises(Mq9Error):
        disk.commit()
    disk.close()


# --- Journal ----------------------------------------------------------------------------------------------------------


def test_a_journal_is_what_was_flushed(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    journal = LmdbJournal(disk)
    assert (journal.first_index, journal.last_index, journal.is_blank) == (1, 1, True)
    for index in range(2, 8):
        journal.add(b"\0%d" % index, index, index // 3)
    journal.setRaftCommitIndex(5)
    journal.flush()
    journal.add(b"\0lost", 8, 3)
    assert journal.dirty
    disk.close()  # a crash

    disk = Disk(tmp_path)
    journal = LmdbJournal(disk)
    assert list(journal[1:]) == [(b"\0%d" % index, index, index // 3) for index in range(2, 8)]
    assert journal.getRaftCommitIndex() == 5
    assert not journal.dirty
    disk.close()


def test_ends_and_beginnings_are_cut_by_position(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    journal = LmdbJournal(disk)
    for index in range(2, 12):
        journal.add(b"\0x", index, 1)
    journal.deleteEntriesFrom(8)  # entry 9 and what follows
    journal.deleteEntriesTo(3)  # what is before entry 4
    journal.flush()
    assert (journal.first_index, journal.last_index, journal.bytes) == (4, 8, 10)
    assert journal.term_at(3) is None
    assert journal.term_at(9) is None
    journal.add(b"\0y", 9, 2)
    journal.flush()
    disk.close()
    disk = Disk(tmp_path)
    again = LmdbJournal(disk)
    assert [index for _, index, _ in again[:]] == [4, 5, 6, 7, 8, 9]
    assert again.first_of_term(8, 5) == 5
    assert again.first_of_term(9, 5) == 9
    disk.close()


def test_a_vote_is_durable_when_the_call_returns(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    LmdbJournal(disk).setCurrentTerm(7, "n2")
    disk.close()
    disk = Disk(tmp_path)
    journal = LmdbJournal(disk)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (7, "n2")
    disk.close()


def test_many_entries_are_one_fsync(disk: Disk) -> None:
    journal = LmdbJournal(disk)
    before = disk.commits
    for index in range(2, 500):
        journal.add(b"\0x", index, 1)
    journal.flush()
    journal.flush()
    assert disk.commits == before + 1


def test_a_gap_in_the_journal_is_damage(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    journal = LmdbJournal(disk)
    for index in range(2, 6):
        journal.add(b"\0x", index, 1)
    disk.delete(JOURNAL, INDEX.pack(3))
    journal.flush()
    with pytest.raises(Mq9Error, match="from entry 2 to 4"):
        LmdbJournal(disk)
    disk.close()


def test_lmdb_syncs_by_default(disk: Disk) -> None:
    """Nothing below may be turned off by accident: the power-cut replay shows what that costs."""
    flags = disk._env.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert not flags["writemap"]
    assert isinstance(disk._env, lmdb.Environment)
