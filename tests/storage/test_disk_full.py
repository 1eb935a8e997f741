"""A disk that is really full: new data is refused, deletes and acknowledgements go on, and it ends by itself."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mq9.errors import CapacityError
from mq9.storage.interface import Batch, Table
from mq9.storage.lmdb_store import LmdbStore
from tests.storage import ledger
from tests.storage.conftest import batch_of
from tests.support.small_disk import mounted_disk

DISK_BYTES = 24 * 1024 * 1024
BALLAST = 1024 * 1024
ROWS = 32  # of one SEND batch
SMALL = b"floor"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, DISK_BYTES large."""
    with mounted_disk(tmp_path / "disk", str(DISK_BYTES)) as place:
        yield place


@pytest.fixture
def full(disk: Path) -> Iterator[LmdbStore]:
    """A store on that disk."""
    store = LmdbStore(disk / "data", reserve_bytes=0, ballast_bytes=BALLAST)
    yield store
    store.close()


def send(store: LmdbStore, number: int) -> None:
    """Commit ROWS messages of 1 kB."""
    store.commit(batch_of(*((Table.MESSAGE, (number * ROWS + row).to_bytes(4, "big"), os.urandom(1000)) for row in range(ROWS))))


def send_until_full(store: LmdbStore) -> int:
    """How many batches were taken before the first was refused."""
    for number in range(10_000):
        try:
            send(store, number)
        except CapacityError:
            return number
    raise AssertionError("the disk never filled up")


def delete(store: LmdbStore, number: int) -> None:
    """Delete what `send` with that number stored."""
    store.commit(batch_of(*((Table.MESSAGE, (number * ROWS + row).to_bytes(4, "big"), None) for row in range(ROWS))))


def stored(store: LmdbStore) -> int:
    return len(store.scan(Table.MESSAGE, b"", ledger.END, 1 << 30))


def test_a_full_disk_refuses_new_data_and_loses_nothing(full: LmdbStore) -> None:
    taken = send_until_full(full)
    assert taken * ROWS * 1000 > DISK_BYTES // 2
    assert stored(full) == taken * ROWS, "a refused batch left nothing behind"
    assert not full.stat().writable
    for _ in range(3):
        with pytest.raises(CapacityError):
            send(full, taken)


def test_the_store_says_so_before_it_has_to_refuse(full: LmdbStore) -> None:
    number = 0
    while full.stat().writable:
        send(full, number)
        number += 1
    assert number > 10


def test_acknowledging_goes_on_when_the_disk_is_full(full: LmdbStore) -> None:
    send_until_full(full)
    for number in range(2000):
        full.commit(batch_of((Table.GROUP, b"group", b"%d" % number), (Table.ACKED, (number % 50).to_bytes(4, "big"), SMALL)))
    assert full.get(Table.GROUP, b"group") == b"1999"


def test_deleting_goes_on_when_the_disk_is_full_and_ends_it(full: LmdbStore) -> None:
    taken = send_until_full(full)
    for number in range(taken):
        delete(full, number)
    assert stored(full) == 0
    assert full.stat().writable
    assert send_until_full(full) > taken // 2, "the room inside the file is used again"


def test_it_ends_by_itself_when_something_else_frees_the_disk(full: LmdbStore, disk: Path) -> None:
    other = disk / "something else"
    other.write_bytes(bytes(DISK_BYTES // 2))
    taken = send_until_full(full)
    assert not full.stat().writable
    other.unlink()
    assert full.stat().writable
    send(full, taken)
    assert stored(full) == (taken + 1) * ROWS


def test_a_store_on_a_full_disk_opens_again_and_can_be_emptied(full: LmdbStore, disk: Path) -> None:
    taken = send_until_full(full)
    full.close()
    again = LmdbStore(disk / "data", reserve_bytes=0, ballast_bytes=BALLAST)
    assert stored(again) == taken * ROWS
    for number in range(taken):
        delete(again, number)
    assert again.stat().writable
    again.close()


def test_a_store_cannot_be_made_on_a_full_disk_and_says_why(disk: Path) -> None:
    filler = disk / "filler"
    while shutil.disk_usage(disk).free:
        with filler.open("ab") as file:
            file.write(bytes(4096))
    with pytest.raises(Exception, match="cannot be made"):
        LmdbStore(disk / "data")
    filler.unlink()
    LmdbStore(disk / "data").close()


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """For where nothing can be mounted: a limit of the process stands for the end of the disk."""
    store = LmdbStore(tmp_path / "data", reserve_bytes=0, ballast_bytes=BALLAST)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 1024 * 1024, limits[1]))
    try:
        taken = send_until_full(store)
        assert stored(store) == taken * ROWS
        for number in range(taken):
            delete(store, number)
        send(store, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        store.close()


def test_a_batch_larger_than_the_room_is_refused_and_a_smaller_one_taken(full: LmdbStore) -> None:
    large = Batch()
    for number in range(40):
        large.put(Table.MESSAGE, b"large%d" % number, os.urandom(1_000_000))
    with pytest.raises(CapacityError):
        full.commit(large)
    assert stored(full) == 0
    full.commit(batch_of((Table.GROUP, b"g", SMALL)))
