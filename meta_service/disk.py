"""The one LMDB environment of a meta node: Raft's journal and the state machine's rows, committed together.

    journal  index u64 -> term, command               the Raft log
    node     name -> value                            term and vote, commit and applied index, identity
    config, brokers, slots, offsets, clients          the state after `applied`, see state.py

Because both are in one environment, one transaction can say "the state is that after entry 1,000 and the journal begins
at 990": there is no dump that could be newer or older than the journal it belongs to.

Everything is written through one open transaction, `write()`, by one thread; `commit()` makes it durable with one fsync.
Rows carry a version and a CRC. Any failure to write is final: the node must stop, since what it has in memory is then
ahead of its disk. Nothing here knows Raft or the meaning of a row.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from mq9 import limits
from mq9.errors import Mq9Error, error

# The first byte of every row. To change what rows are: raise it, read the old ones in `unseal` for one release at least,
# and keep a fixture of them in tests/meta.
ROW_VERSION = 1
_SEAL = struct.Struct(">BI")

JOURNAL, NODE, CONFIG, BROKERS, SLOTS, OFFSETS, CLIENTS = range(7)
_NAMES = (b"journal", b"node", b"config", b"brokers", b"slots", b"offsets", b"clients")
STATE_TABLES = (CONFIG, BROKERS, SLOTS, OFFSETS, CLIENTS)  # numbers are in snapshots: append, never renumber


def seal(key: bytes, value: bytes) -> bytes:
    """The row to store for `value`: a row that landed under another key fails its checksum too."""
    return _SEAL.pack(ROW_VERSION, zlib.crc32(value, zlib.crc32(key))) + value


def unseal(key: bytes, row: bytes) -> bytes:
    """The value of a row. Raises DATA_DAMAGED."""
    if len(row) >= _SEAL.size:
        version, checksum = _SEAL.unpack_from(row)
        value = row[_SEAL.size :]
        if version == ROW_VERSION and checksum == zlib.crc32(value, zlib.crc32(key)):
            return value
    raise error("DATA_DAMAGED", reason=f"meta row {key.hex()} fails its checksum; replace this node's disk by an empty one")


class Disk:
    """One data directory. Raises DATA_DAMAGED or STORAGE_FAILED; after a STORAGE_FAILED it stays failed."""

    def __init__(self, directory: Path, *, sync: bool = True) -> None:
        self.directory = directory
        self._sync = sync
        self._txn: lmdb.Transaction[bytes] | None = None
        self.commits = 0
        self.commit_s = 0.0  # how long the last commit took
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(directory / "mq9-meta.lock")
        try:
            self._env, self._tables = self._open()
        except BaseException:  # whatever it was, the directory must not stay locked
            os.close(self._lock)
            raise

    def _open(self) -> tuple[lmdb.Environment, list[lmdb._Database]]:
        path = self.directory / "data.mdb"
        try:
            if not path.exists():
                self._create(path)
            env = self._environment(self.directory)
            return env, [env.open_db(name, create=False) for name in _NAMES]
        except (OSError, lmdb.Error) as failure:
            raise _read_failure(failure, path) from failure

    def _environment(self, folder: Path) -> lmdb.Environment:
        return lmdb.Environment(
            str(folder), map_size=limits.META_MAP_BYTES, sync=self._sync, metasync=self._sync, max_dbs=len(_NAMES), mode=0o600
        )

    def _create(self, path: Path) -> None:
        """Make the file under another name and move it into place: a power cut leaves none or a whole one."""
        folder = self.directory / "new"
        folder.mkdir(mode=0o700, exist_ok=True)
        for leftover in folder.iterdir():
            leftover.unlink()
        with self._environment(folder) as env:
            for name in _NAMES:
                env.open_db(name)
        self._sync_directory(folder)
        (folder / "data.mdb").rename(path)
        (folder / "lock.mdb").unlink()
        folder.rmdir()
        self._sync_directory(self.directory)
        self._sync_directory(self.directory.parent)

    def _sync_directory(self, path: Path) -> None:
        if self._sync:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    # --- Writing: one thread only --------------------------------------------------------------------------------

    def write(self) -> lmdb.Transaction[bytes]:
        """The open write transaction. It also reads what it has written."""
        if self._txn is None:
            self._txn = self._env.begin(write=True)
        return self._txn

    def put(self, table: int, key: bytes, value: bytes) -> None:
        try:
            self.write().put(key, seal(key, value), db=self._tables[table])
        except lmdb.Error as failure:
            raise self._failed(failure) from failure

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value as written, committed or not."""
        row = self.write().get(key, db=self._tables[table])
        return None if row is None else unseal(key, row)

    def delete(self, table: int, key: bytes) -> None:
        try:
            self.write().delete(key, db=self._tables[table])
        except lmdb.Error as failure:
            raise self._failed(failure) from failure

    def delete_range(self, table: int, start: bytes, stop: bytes | None) -> int:
        """Delete start <= key < stop (None: to the end); how many."""
        count = 0
        try:
            with self.write().cursor(db=self._tables[table]) as cursor:
                cursor.set_range(start)
                while cursor.key() and (stop is None or cursor.key() < stop):  # no key: behind the last row
                    cursor.delete()
                    count += 1
        except lmdb.Error as failure:
            raise self._failed(failure) from failure
        return count

    def clear(self, table: int) -> None:
        try:
            self.write().drop(self._tables[table], delete=False)
        except lmdb.Error as failure:
            raise self._failed(failure) from failure

    def written(self) -> Snapshot:
        """A read of everything written, committed or not; valid until the next commit."""
        return Snapshot(self.write(), self._tables)

    def commit(self) -> None:
        """Make everything written durable; it is on stable storage when this returns."""
        if self._txn is None:
            return
        txn, self._txn = self._txn, None
        started_s = time.perf_counter()
        try:
            txn.commit()
        except lmdb.Error as failure:
            raise self._failed(failure) from failure
        self.commit_s = time.perf_counter() - started_s
        self.commits += 1

    def _failed(self, failure: lmdb.Error) -> Mq9Error:
        return error("STORAGE_FAILED", reason=f"{self.directory}: {failure}")

    # --- Reading what is committed: any thread --------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The whole of what is committed now, unchanged by later commits. Keep it short: pages pile up meanwhile."""
        with self._env.begin() as txn:
            yield Snapshot(txn, self._tables)

    def open_snapshot(self) -> Snapshot:
        """The same, to be closed by the caller."""
        return Snapshot(self._env.begin(), self._tables)

    def free_bytes(self) -> int:
        """Free on the disk."""
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        """Give the directory free. What was not committed is forgotten, as after a crash."""
        if self._lock < 0:
            return
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._env.close()
        os.close(self._lock)
        self._lock = -1


class Snapshot:
    """A consistent read of all tables."""

    def __init__(self, txn: lmdb.Transaction[bytes], tables: list[lmdb._Database]) -> None:
        self._txn = txn
        self._tables = tables

    def get(self, table: int, key: bytes) -> bytes | None:
        try:
            row = self._txn.get(key, db=self._tables[table])
        except lmdb.Error as failure:
            raise _read_failure(failure, _NAMES[table].decode()) from failure
        return None if row is None else unseal(key, row)

    def rows(self, table: int, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) with start <= key < stop in key order."""
        try:
            with self._txn.cursor(db=self._tables[table]) as cursor:
                if not (cursor.set_range(start) if start else cursor.first()):
                    return
                for key, row in cursor.iternext(keys=True, values=True):
                    if stop is not None and key >= stop:
                        return
                    yield key, unseal(key, row)
        except lmdb.Error as failure:
            raise _read_failure(failure, _NAMES[table].decode()) from failure

    def close(self) -> None:
        self._txn.abort()


def _read_failure(failure: Exception, what: object) -> Mq9Error:
    """DATA_DAMAGED for what LMDB calls damage, else STORAGE_FAILED."""
    damage = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.NotFoundError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
    if isinstance(failure, damage):
        return error("DATA_DAMAGED", reason=f"{what}: {failure}; replace this node's disk by an empty one")
    return error("STORAGE_FAILED", reason=f"{what} cannot be read: {failure}")


def _lock(path: Path) -> int:
    """Hold the directory for this process. Raises STORAGE_FAILED naming the holder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise error("STORAGE_FAILED", reason=f"{path.parent} is in use by process {holder}") from failure
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
