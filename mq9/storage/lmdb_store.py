"""The durable store: one LMDB environment per data directory, one named database per Table.

Owns `data.mdb` and `lock.mdb` of the directory, and through `directory.py` the hold on it. Next stop: the disk.

Durability. LMDB writes the pages of a transaction, calls fdatasync, and then writes its meta page through an O_DSYNC
descriptor; `commit` returns after both. Never opened here: `writemap` (a full disk becomes SIGBUS), `metasync=False`
(loses the last transaction at a power cut). `sync=False` exists for the tests that must be able to lose data.

Failure. A commit that raises has changed nothing that LMDB will show: the transaction is aborted and its pages belong to
nobody. STORAGE_FULL when the disk or the map had no room; anything else, a failed fsync above all, ends the store:
whether the kernel still holds the pages it could not write is unknown, so no later success would mean anything.

A full disk shows as EIO or ENOSPC, so the error alone does not tell; the ballast does. Every commit first sees that the
file has allocated pages ahead. Had it room, an EIO is a failing disk; had it none, the disk is full.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable
from itertools import islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Final

import lmdb

from mq9 import limits
from mq9.errors import Mq9Error, error
from mq9.storage import layout, records
from mq9.storage.directory import CrashMarker, DirectoryLock, make_directory, sync_directory
from mq9.storage.format import COMMIT_KEY, KEY_BYTES_MAX, check_format_row, new_format_row
from mq9.storage.interface import Batch, Row, StoreStat, Table
from mq9.storage.lmdb_file import DATA_FILE, DISK_FULL_ERRNOS, Ballast, check_file
from mq9.storage.verify import verify_directory

log = logging.getLogger("mq9.storage")

LMDB_LOCK_FILE: Final = "lock.mdb"
_LMDB_LOCK_BYTES: Final = 16 * 1024  # LMDB needs 8 KiB for its 126 readers
_NEW_DIRECTORY: Final = "new"  # a store is made in here and moved into place whole
_COMMIT_OVERHEAD_BYTES: Final = 1024 * 1024  # of the root pages, the free list and what else a commit writes besides rows
# A transaction is bad when something earlier in it met a broken page.
_DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.BadTxnError)


class LmdbStore:
    """A `Store` on disk. `sync_s` is how long the last commit waited for LMDB's commit, most of it the disk, in seconds."""

    def __init__(
        self,
        directory: Path | str,
        *,
        sync: bool = True,
        reserve_bytes: int = -1,
        ballast_bytes: int = limits.BALLAST_BYTES,
        map_bytes: int = limits.MAP_BYTES_INITIAL,
        crash_marker: bool = False,
    ) -> None:
        """Open the store in `directory`, making it when absent.

        `reserve_bytes`: free disk below which `stat().writable` is False; -1 for the larger of 5 % and 1 GiB.
        `crash_marker`: let faulthandler note in the directory what a fatal signal was; one store per process may.
        Raises STORAGE_FAILED (in use, not writable, made by a newer program) or DATA_DAMAGED.
        """
        self.directory = Path(directory).absolute()
        self.sync_s = 0.0
        self._sync = sync
        self._reserve_bytes = reserve_bytes
        self._map_bytes = map_bytes
        self._map_lock = threading.Lock()  # held by every read and while the map is replaced: neither sees the other
        self._failure: Mq9Error | None = None
        self._closed = False
        self._room_wanted = 0  # after a STORAGE_FULL: not writable until room() is back above this
        self._reuse_bytes = 4 * max(ballast_bytes, _COMMIT_OVERHEAD_BYTES)  # free inside the file: room without the disk
        self._small_bytes = max(ballast_bytes, _COMMIT_OVERHEAD_BYTES) // 256  # batches of this size pass on a full disk
        self._txn = 0  # the newest durable transaction
        self._page_bytes = 0
        make_directory(self.directory)
        self._lock = DirectoryLock(self.directory)
        self._crash = CrashMarker(self.directory)
        try:
            self._prepare()
            self._lock.mark(b"opening", self._lock.previous.txn)
            if crash_marker:
                self._crash.arm()
            self._open(ballast_bytes)
        except BaseException:  # whatever it was, the directory must not stay locked
            self._crash.disarm()
            self._lock.release()
            raise
        self._lock.mark(b"serving", self._txn if sync else 0)

    # --- Opening ------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the data file when there is none; look closely at one that may have killed its last reader."""
        path = self.directory / DATA_FILE
        previous = self._lock.previous
        if not path.exists():
            if previous.txn:
                raise error("DATA_DAMAGED", reason=f"{path} is missing; the store had committed transaction {previous.txn}")
            self._create(path)
        check_file(path)
        self._look_closely()

    def _look_closely(self) -> None:
        """When damage may have ended the last process, read everything in a child process before this one opens it."""
        death = self._crash.read()
        if not death and self._lock.previous.phase != "opening":
            return
        log.warning(
            "the last process on %s %s; verifying", self.directory, f"died:\n{death}" if death else "died while opening it"
        )
        report = verify_directory(self.directory, locked=True)
        if not report.ok:
            raise error("DATA_DAMAGED", reason=f"{report.summary()}; `mq9 verify {self.directory}` names everything")
        self._crash.retire()

    def _create(self, path: Path) -> None:
        """Make an empty data file under another name and move it into place: a crash leaves none or a whole one."""
        folder = self.directory / _NEW_DIRECTORY
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in (DATA_FILE, LMDB_LOCK_FILE):
            (folder / name).unlink(missing_ok=True)
        try:
            env = self._environment(folder, self._map_bytes)
            with env.begin(write=True) as txn:
                for table in Table:
                    env.open_db(table.name.encode(), txn=txn)
                meta = env.open_db(Table.META.name.encode(), txn=txn)
                txn.put(layout.FORMAT_KEY, new_format_row(), db=meta)
                txn.put(COMMIT_KEY, _commit_row(txn.id()), db=meta)
            env.close()
            if self._sync:
                sync_directory(folder)
            (folder / DATA_FILE).rename(path)
            (folder / LMDB_LOCK_FILE).unlink()
            folder.rmdir()
            if self._sync:
                sync_directory(self.directory)
        except (OSError, lmdb.Error) as failure:
            raise error("STORAGE_FAILED", reason=f"{path} cannot be made: {failure}") from failure

    def _environment(self, folder: Path, map_bytes: int) -> lmdb.Environment:
        """LMDB as this store uses it. Readahead stays on: a FETCH reads neighbours, and a cold start reads much."""
        # LMDB writes its lock file through a mapping: without room on the disk that is SIGBUS. Allocated first, it is an
        # error.
        fd = os.open(folder / LMDB_LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _LMDB_LOCK_BYTES)
        finally:
            os.close(fd)
        return lmdb.Environment(
            str(folder),
            map_size=map_bytes,
            sync=self._sync,
            metasync=self._sync,
            max_dbs=len(Table) + 4,
            mode=0o600,
            lib_version=0,
        )

    def _open(self, ballast_bytes: int) -> None:
        path = self.directory / DATA_FILE
        meta = check_file(path)
        self._page_bytes = meta.page_bytes
        used = (meta.last_page + 1) * meta.page_bytes
        while self._map_bytes < used + 2 * limits.MAP_RESERVE_BYTES and self._map_bytes < limits.MAP_BYTES_MAX:
            self._map_bytes *= 2
        try:
            self._env = self._environment(self.directory, self._map_bytes)
        except (OSError, lmdb.Error) as failure:
            raise _open_failure(failure, path) from failure
        try:
            self._tables = [self._env.open_db(table.name.encode(), create=False) for table in Table]
            with self._env.begin() as txn:
                format_row = txn.get(layout.FORMAT_KEY, db=self._tables[Table.META])
                commit_row = txn.get(COMMIT_KEY, db=self._tables[Table.META])
            check_format_row(format_row, str(self.directory))
            self._check_commit_row(commit_row)
            self._ballast = Ballast(path, ballast_bytes)
        except (OSError, lmdb.Error) as failure:
            self._env.close()
            raise _open_failure(failure, path) from failure
        except Mq9Error:
            self._env.close()
            raise

    def _check_commit_row(self, row: bytes | None) -> None:
        """The tree must be the one the meta page names, and not older than what was acknowledged."""
        self._txn = self._env.info()["last_txnid"]
        written = 0 if row is None else layout.unpack_u64(records.unseal(COMMIT_KEY, row))
        if written != self._txn:
            raise error("DATA_DAMAGED", reason=f"{DATA_FILE} names transaction {self._txn} but holds transaction {written}")
        if self._sync and self._txn < self._lock.previous.txn:
            raise error(
                "DATA_DAMAGED",
                reason=f"{DATA_FILE} is at transaction {self._txn}, but {self._lock.previous.txn} was acknowledged; "
                f"if an older copy was put here on purpose, remove {self.directory / 'mq9.lock'}",
            )

    # --- Reading ------------------------------------------------------------------------------------------------

    def get(self, table: Table, key: bytes) -> bytes | None:
        try:
            with self._map_lock, self._env.begin(self._tables[table]) as txn:
                return txn.get(key)
        except lmdb.Error as failure:
            raise _read_failure(failure, table) from failure

    def get_many(self, keys: Iterable[tuple[Table, bytes]]) -> list[bytes | None]:
        table = Table.META
        try:
            with self._map_lock, self._env.begin() as txn:
                found: list[bytes | None] = []
                for table, key in keys:
                    found.append(txn.get(key, db=self._tables[table]))
                return found
        except lmdb.Error as failure:
            raise _read_failure(failure, table) from failure

    def scan(self, table: Table, start: bytes, stop: bytes, limit: int, bytes_max: int = 1 << 62) -> list[Row]:
        rows: list[Row] = []
        if limit <= 0:
            return rows
        try:
            with self._map_lock, self._env.begin(self._tables[table]) as txn, txn.cursor() as cursor:
                if not cursor.set_range(start):
                    return rows
                size = 0
                for row in islice(cursor.iternext(keys=True, values=True), limit):
                    if row[0] >= stop:
                        break
                    rows.append(row)
                    size += len(row[1])
                    if size >= bytes_max:
                        break
        except lmdb.Error as failure:
            raise _read_failure(failure, table) from failure
        return rows

    def keys(self, table: Table, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        if limit <= 0:
            return []
        try:
            with self._map_lock, self._env.begin(self._tables[table]) as txn, txn.cursor() as cursor:
                if not cursor.set_range(start):
                    return []
                found = islice(cursor.iternext(keys=True, values=False), limit)
                return list(takewhile(stop.__gt__, found))
        except lmdb.Error as failure:
            raise _read_failure(failure, table) from failure

    def last(self, table: Table, start: bytes, stop: bytes) -> Row | None:
        try:
            with self._map_lock, self._env.begin(self._tables[table]) as txn, txn.cursor() as cursor:
                found = cursor.prev() if cursor.set_range(stop) else cursor.last()
                return cursor.item() if found and cursor.key() >= start else None
        except lmdb.Error as failure:
            raise _read_failure(failure, table) from failure

    # --- Writing ------------------------------------------------------------------------------------------------

    def commit(self, batch: Batch) -> None:
        if self._failure is not None:
            raise self._failure
        if not batch:
            return
        needed = 2 * batch.bytes_staged + _COMMIT_OVERHEAD_BYTES
        used = (self._env.info()["last_pgno"] + 1) * self._page_bytes
        self._ballast.top_up(used, needed)
        if self._ballast.low(used) and _put_bytes(batch) > self._small_bytes and not self.stat().writable:
            raise self._full(needed)  # what is left is for deletes and acknowledgements
        if self._map_bytes - used < limits.MAP_RESERVE_BYTES + needed:
            self._grow(used + limits.MAP_RESERVE_BYTES + needed)
        while True:
            try:
                self._write(batch)
            except lmdb.MapFullError as failure:
                # Rare: the batch touched far more pages than its bytes suggested. Nothing was changed; grow and repeat.
                if not self._grow(2 * self._map_bytes):
                    raise self._full(needed) from failure
            except lmdb.BadValsizeError as failure:
                raise ValueError(f"a key is empty or longer than {KEY_BYTES_MAX} bytes") from failure
            except (lmdb.Error, SystemError) as failure:  # py-lmdb's cursor.delete says SystemError for a damaged page
                raise self._judge(failure, needed) from failure
            else:
                break
        if self._sync:
            self._lock.advance(self._txn)

    def _write(self, batch: Batch) -> None:
        """One LMDB transaction. Rows go in key order, which keeps the cursor on one page for neighbours."""
        txn = self._env.begin(write=True)
        try:
            for table, changes in zip(self._tables, batch.tables, strict=True):
                if changes:
                    _apply(txn, table, changes)
            number = txn.id()
            txn.put(COMMIT_KEY, _commit_row(number), db=self._tables[Table.META])
            started_s = time.perf_counter()
            _finish(txn)
            self.sync_s = time.perf_counter() - started_s
        except BaseException:  # an open write transaction would block every later one
            txn.abort()  # harmless after a failed commit, which has aborted it already
            raise
        self._txn = number

    def _grow(self, wanted_bytes: int) -> bool:
        """Make the map at least `wanted_bytes`, in doublings. False when that is beyond what may or can be mapped."""
        size = self._map_bytes
        while size < wanted_bytes:
            size *= 2
        size = min(size, limits.MAP_BYTES_MAX)
        if size <= self._map_bytes:
            return False
        try:
            # LMDB unmaps before it maps: a refusal in between would leave it without a map. Ask for the space first.
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
        except (OSError, ValueError):
            log.exception("the map of %s cannot grow to %d bytes of address space", self.directory, size)
            return False
        with self._map_lock:
            self._env.set_mapsize(size)
        self._map_bytes = size
        return True

    # --- Failing ------------------------------------------------------------------------------------------------

    def _judge(self, failure: lmdb.Error | SystemError, needed_bytes: int) -> Mq9Error:
        """STORAGE_FULL when the disk had no room for the commit, else STORAGE_FAILED for good."""
        fatal = isinstance(failure, (SystemError, lmdb.PanicError, *_DAMAGE))
        code = getattr(failure, "code", 0)
        free = os.statvfs(self.directory)
        no_room = self._ballast.starved or code in DISK_FULL_ERRNOS or free.f_bavail * free.f_frsize < needed_bytes
        if no_room and not fatal:
            return self._full(needed_bytes)
        self._failure = error("STORAGE_FAILED", reason=f"{self.directory}: {failure}")
        log.critical("%s; no write is accepted any more", self._failure.text)
        return self._failure

    def _full(self, needed_bytes: int) -> Mq9Error:
        """Note that there must be more room than now before new data is taken again."""
        stat = self.stat()
        self._room_wanted = stat.disk_free_bytes + stat.file_bytes - stat.used_bytes + needed_bytes
        log.warning("storage full: %s has %d bytes free on disk", self.directory, stat.disk_free_bytes)
        return error("STORAGE_FULL")

    def stat(self) -> StoreStat:
        used = self._used_bytes()
        disk = os.statvfs(self.directory)
        free = disk.f_bavail * disk.f_frsize
        total = disk.f_blocks * disk.f_frsize
        reserve = self._reserve_bytes
        if reserve < 0:
            reserve = max(int(total * limits.DISK_RESERVE_FRACTION), limits.DISK_RESERVE_BYTES)
        file = self._ballast.file_bytes()
        # Pages that were freed inside the file are room too: LMDB gives none back to the disk, and deleting must be able
        # to end the refusal.
        inside = file - used
        if free + inside > self._room_wanted:
            self._room_wanted = 0
        # A starved ballast is topped up by the next commit, which may never come if nothing may be written: look at the disk.
        starved = self._ballast.starved and free < 2 * self._ballast.size
        enough = (free >= reserve and not starved) or inside >= self._reuse_bytes
        failed = self._failure is not None
        return StoreStat(used, file, free, total, writable=enough and not self._room_wanted and not failed, failed=failed)

    def _used_bytes(self) -> int:
        """Bytes of the pages that hold rows; 0 when LMDB lets nobody read any more, as after a failed write of its meta page."""
        try:
            with self._map_lock, self._env.begin() as txn:
                pages = sum(_pages(txn.stat(table)) for table in self._tables)
        except lmdb.Error as failure:
            self._failure = self._failure or _read_failure(failure, Table.META)
            return 0
        return pages * self._page_bytes

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._failure = self._failure or error("STORAGE_FAILED", reason=f"{self.directory} is closed")
        self._env.close()
        self._ballast.close()
        self._crash.disarm()
        self._lock.mark(b"closed", self._txn if self._sync else 0)
        self._lock.release()


def _apply(txn: lmdb.Transaction[bytes], table: lmdb._Database, changes: dict[bytes, bytes | None]) -> None:
    """Make the changes of one table."""
    cursor = txn.cursor(table)
    rows = sorted(changes.items())
    puts = [(key, value) for key, value in rows if value is not None]
    if len(puts) < len(rows):
        for key, value in rows:
            if value is None and cursor.set_key(key):
                cursor.delete()
    if not puts:
        return
    # Keys beyond the last one are appended, which is twice as fast as looking for their place.
    beyond = bisect_right(puts, cursor.key(), key=itemgetter(0)) if cursor.last() else 0
    if beyond:
        cursor.putmulti(puts[:beyond])
    if beyond < len(puts):
        cursor.putmulti(puts[beyond:], append=True)


def _finish(txn: lmdb.Transaction[bytes]) -> None:
    """Commit. No row is looked at any more: a size that is wrong now is one of LMDB's own tables, damaged."""
    try:
        txn.commit()
    except lmdb.BadValsizeError as failure:
        raise lmdb.CorruptedError(str(failure)) from failure


def _put_bytes(batch: Batch) -> int:
    return sum(len(value) for changes in batch.tables for value in changes.values() if value is not None)


def _commit_row(txn: int) -> bytes:
    return records.seal(COMMIT_KEY, layout.pack_u64(txn))


def _pages(stat: lmdb._StatDict) -> int:
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]


def _open_failure(failure: Exception, path: Path) -> Mq9Error:
    if isinstance(failure, (*_DAMAGE, lmdb.NotFoundError)):
        return error("DATA_DAMAGED", reason=f"{path}: {failure}")
    return error("STORAGE_FAILED", reason=f"{path} cannot be opened: {failure}")


def _read_failure(failure: lmdb.Error, table: Table) -> Mq9Error:
    if isinstance(failure, _DAMAGE):
        return error("DATA_DAMAGED", reason=f"table {table.name} cannot be read: {failure}")
    return error("STORAGE_FAILED", reason=f"table {table.name} cannot be read: {failure}")
