"""The store without a disk: the same contract, lost at exit. For `--storage memory` and for tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from itertools import islice

from sortedcontainers import SortedDict

from mq9.errors import error
from mq9.storage.format import KEY_BYTES_MAX, new_format_row
from mq9.storage.interface import Batch, Row, StoreStat, Table
from mq9.storage.layout import FORMAT_KEY


class MemoryStore:
    """A `Store` in this process. `sync_s` is always 0: there is nothing to wait for."""

    def __init__(self, bytes_max: int = 0) -> None:
        """`bytes_max`: keys and values together, above which data that grows the store is refused; 0: half the memory."""
        self.sync_s = 0.0
        self._bytes_max = bytes_max or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        self._used = 0
        self._lock = threading.Lock()  # readers see whole batches only
        self._tables: list[SortedDict[bytes, bytes]] = [SortedDict() for _ in Table]
        self._tables[Table.META][FORMAT_KEY] = new_format_row()

    def get(self, table: Table, key: bytes) -> bytes | None:
        with self._lock:
            value: bytes | None = self._tables[table].get(key)
            return value

    def get_many(self, keys: Iterable[tuple[Table, bytes]]) -> list[bytes | None]:
        with self._lock:
            return [self._tables[table].get(key) for table, key in keys]

    def scan(self, table: Table, start: bytes, stop: bytes, limit: int, bytes_max: int = 1 << 62) -> list[Row]:
        rows: list[Row] = []
        size = 0
        with self._lock:
            content = self._tables[table]
            for key in islice(content.irange(start, stop, inclusive=(True, False)), max(limit, 0)):
                value = content[key]
                rows.append((key, value))
                size += len(value)
                if size >= bytes_max:
                    break
        return rows

    def keys(self, table: Table, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        with self._lock:
            return list(islice(self._tables[table].irange(start, stop, inclusive=(True, False)), max(limit, 0)))

    def last(self, table: Table, start: bytes, stop: bytes) -> Row | None:
        with self._lock:
            content = self._tables[table]
            key = next(content.irange(start, stop, inclusive=(True, False), reverse=True), None)
            return None if key is None else (key, content[key])

    def commit(self, batch: Batch) -> None:
        for changes in batch.tables:
            if changes and (b"" in changes or max(map(len, changes)) > KEY_BYTES_MAX):
                raise ValueError(f"a key is empty or longer than {KEY_BYTES_MAX} bytes")
        with self._lock:
            growth = sum(map(_growth, self._tables, batch.tables))
            if growth > 0 and self._used + growth > self._bytes_max:
                raise error("STORAGE_FULL")
            for content, changes in zip(self._tables, batch.tables, strict=True):
                for key, value in changes.items():
                    if value is None:
                        content.pop(key, None)
                    else:
                        content[key] = value
            self._used += growth

    def stat(self) -> StoreStat:
        free = max(self._bytes_max - self._used, 0)
        return StoreStat(self._used, self._used, free, self._bytes_max, writable=free > self._bytes_max // 20)

    def close(self) -> None:
        """Nothing to release; what was stored goes with the object."""


def _growth(content: SortedDict[bytes, bytes], changes: dict[bytes, bytes | None]) -> int:
    """Bytes the store grows by when `changes` are made; negative when it shrinks."""
    growth = 0
    for key, value in changes.items():
        old = content.get(key)
        if old is not None:
            growth -= len(key) + len(old)
        if value is not None:
            growth += len(key) + len(value)
    return growth
