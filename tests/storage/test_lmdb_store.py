"""What LmdbStore does beyond the contract: the directory, its holder, its format, the map and the ballast."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest

from mq9 import limits
from mq9.errors import Mq9Error, StorageError
from mq9.storage import records
from mq9.storage.format import FORMAT_VERSION, Format
from mq9.storage.interface import Batch, Table
from mq9.storage.layout import FORMAT_KEY
from mq9.storage.lmdb_file import DATA_FILE, Ballast, check_file
from tests.storage import ledger
from tests.storage.conftest import OpenLmdb, batch_of
from tests.storage.processes import ROOT, command, run


def test_what_was_committed_is_there_after_reopening(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    book = ledger.Ledger()
    for _ in range(20):
        store.commit(book.next_batch())
    store.close()
    assert ledger.check(open_lmdb()) == 20


def test_closing_twice_is_once(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    store.close()
    store.close()


# --- The directory ----------------------------------------------------------------------------------------------------


def test_the_directory_and_its_files_are_private(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    open_lmdb(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    for path in (tmp_path / "a" / "b").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_second_store_on_the_directory_is_refused_by_name(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    open_lmdb()
    with pytest.raises(StorageError) as refusal:
        open_lmdb()
    assert str(tmp_path / "data") in refusal.value.text
    assert f"in use by process {os.getpid()}" in refusal.value.text


def test_a_second_process_is_told_who_has_the_directory(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    holding = subprocess.Popen(
        command("hold", str(directory)), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == "open\n"
        with pytest.raises(StorageError, match=f"{directory} is in use by process {holding.pid} "):
            open_lmdb(directory)
        holding.send_signal(signal.SIGKILL)
    open_lmdb(directory)  # whoever is killed lets go


def test_what_cannot_be_a_directory_is_refused(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        open_lmdb(tmp_path / "file" / "data")


def test_a_creation_that_was_interrupted_is_done_again(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    left_over = tmp_path / "data" / "new"
    left_over.mkdir(parents=True)
    (left_over / DATA_FILE).write_bytes(bytes(8192))
    (left_over / "lock.mdb").write_bytes(b"")
    open_lmdb().commit(batch_of((Table.KEY, b"k", b"v")))
    assert not left_over.exists()


def test_a_file_that_is_no_store_is_refused(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / DATA_FILE).write_text("hello " * 10_000)
    with pytest.raises(StorageError, match="not a meta page") as refusal:
        open_lmdb()
    assert refusal.value.code == "DATA_DAMAGED"


# --- The format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "code", "text"),
    [
        (Format(FORMAT_VERSION + 1, limits.SLOTS), "STORAGE_FAILED", "use a newer mq9"),
        (Format(FORMAT_VERSION, 16), "STORAGE_FAILED", "made with 16 slots"),
        (None, "DATA_DAMAGED", "no format row"),
    ],
)
def test_a_directory_of_another_format_is_refused_and_left_alone(
    open_lmdb: OpenLmdb, tmp_path: Path, found: Format | None, code: str, text: str
) -> None:
    store = open_lmdb()
    row = None if found is None else records.seal(FORMAT_KEY, msgspec.msgpack.encode(found))
    store.commit(batch_of((Table.META, FORMAT_KEY, row)))
    store.close()
    before = (tmp_path / "data" / DATA_FILE).read_bytes()
    with pytest.raises(StorageError, match=text) as refusal:
        open_lmdb()
    assert refusal.value.code == code
    assert (tmp_path / "data" / DATA_FILE).read_bytes() == before


# --- The map ----------------------------------------------------------------------------------------------------------


def test_the_map_grows_before_it_is_full(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(map_bytes=1024 * 1024)
    value = os.urandom(100_000)
    for number in range(100):
        store.commit(batch_of((Table.MESSAGE, b"%d" % number, value)))
    info = store._env.info()
    assert info["map_size"] - (info["last_pgno"] + 1) * store._page_bytes >= limits.MAP_RESERVE_BYTES
    assert store.get(Table.MESSAGE, b"99") == value


def test_a_commit_that_finds_the_map_full_grows_it_and_succeeds(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(map_bytes=1024 * 1024)
    store.commit(batch_of((Table.MESSAGE, b"a", b"v")))
    # A batch that touches more pages than it seems to is hard to make; a map smaller than the store believes is the same.
    store._env.set_mapsize(100 * store._page_bytes)
    value = os.urandom(2_000_000)
    store.commit(batch_of((Table.MESSAGE, b"b", value)))
    assert store.get(Table.MESSAGE, b"a") == b"v"
    assert store.get(Table.MESSAGE, b"b") == value


def test_readers_on_other_threads_survive_the_map_growing(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(map_bytes=1024 * 1024)
    store.commit(batch_of(*((Table.STATE, bytes([n]), b"%d" % n) for n in range(50))))
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(len(store.scan(Table.STATE, b"", ledger.END, 100)))
            assert store.get(Table.STATE, b"\x07") == b"7"

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        store._grow(store._map_bytes + 1) if number % 6 == 0 else None
        store.commit(batch_of((Table.MESSAGE, b"%d" % number, os.urandom(50_000))))
    done.set()
    for reader in readers:
        reader.join()
    assert set(seen) == {50}


def test_where_no_more_address_space_is_given_the_store_is_full_and_lives(tmp_path: Path) -> None:
    answer = run("cramped", str(tmp_path / "data"))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["STORAGE_FULL", "readable", "deleted"]


# --- Room -------------------------------------------------------------------------------------------------------------


def test_the_ballast_is_allocated_ahead_of_the_data(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    ballast = 4 * 1024 * 1024
    store = open_lmdb(ballast_bytes=ballast)
    path = tmp_path / "data" / DATA_FILE
    for number in range(20):
        store.commit(batch_of((Table.MESSAGE, b"%d" % number, os.urandom(200_000))))
        used = (check_file(path).last_page + 1) * store._page_bytes
        assert path.stat().st_blocks * 512 >= used + ballast - 2 * 300_000  # the commit itself took from it


def test_a_file_system_that_cannot_allocate_ahead_does_without() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    ballast = Ballast(Path(f"/dev/fd/{read_end}"), 1024 * 1024)
    ballast.top_up(0, 0)
    assert not ballast.starved
    assert ballast.size == 0
    ballast.close()
    os.close(read_end)


def test_below_the_reserve_new_data_is_unwelcome_but_commits_work(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(reserve_bytes=1 << 62)
    assert not store.stat().writable
    store.commit(batch_of((Table.GROUP, b"g", b"floor")))
    store.commit(batch_of((Table.GROUP, b"g", None)))
    assert store.get(Table.GROUP, b"g") is None


def test_pages_freed_inside_the_file_are_room_too(open_lmdb: OpenLmdb) -> None:
    """LMDB gives no page back to the disk, so deleting has to be able to end the refusal in another way."""
    store = open_lmdb(reserve_bytes=1 << 62)
    keys = [b"%d" % number for number in range(100)]
    for key in keys:
        store.commit(batch_of((Table.MESSAGE, key, os.urandom(100_000))))
    assert not store.stat().writable
    store.commit(batch_of(*((Table.MESSAGE, key, None) for key in keys)))
    assert store.stat().writable


def test_stat_counts_in_bytes(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    store = open_lmdb()
    store.commit(batch_of((Table.MESSAGE, b"k", os.urandom(1_000_000))))
    measured = store.stat()
    assert 1_000_000 < measured.used_bytes < 1_100_000
    assert measured.file_bytes == (tmp_path / "data" / DATA_FILE).stat().st_size
    assert 0 < measured.disk_free_bytes < measured.disk_total_bytes
    assert measured.writable


# --- Many rows --------------------------------------------------------------------------------------------------------


def test_a_batch_of_many_rows_in_any_order(open_lmdb: OpenLmdb) -> None:
    """Rows beyond the last key are appended, the others are put in place, and both in one batch."""
    store = open_lmdb()
    expected: dict[bytes, bytes] = {}
    for step in range(5):
        batch = Batch()
        for number in range(0, 3000, 1 + step):
            key = (number * 7919 % 4001).to_bytes(4, "big")
            value = None if (number + step) % 5 == 0 else b"%d-%d" % (step, number)
            if value is None:
                batch.delete(Table.DEDUP, key)
                expected.pop(key, None)
            else:
                batch.put(Table.DEDUP, key, value)
                expected[key] = value
        for number in range(1000):
            batch.put(Table.EXPIRY, (step * 1000 + number).to_bytes(8, "big"), b"")
        store.commit(batch)
    assert store.scan(Table.DEDUP, b"", ledger.END, 1 << 30) == sorted(expected.items())
    assert len(store.scan(Table.EXPIRY, b"", ledger.END, 1 << 30)) == 5000


def test_the_time_of_the_last_sync_is_measured(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    assert store.sync_s == 0.0
    store.commit(batch_of((Table.KEY, b"k", b"v")))
    assert store.sync_s > 0.0


def test_a_closed_store_refuses_rather_than_crashes(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    store.close()
    with pytest.raises(Mq9Error):
        store.get(Table.KEY, b"k")
    with pytest.raises(Mq9Error):
        store.commit(batch_of((Table.KEY, b"k", b"v")))
