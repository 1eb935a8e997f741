"""Stores for the storage tests: small files, so that a test may copy and damage them by the hundred."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mq9.storage.interface import Batch, Store, Table
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.memory_store import MemoryStore

OpenLmdb = Callable[..., LmdbStore]


@pytest.fixture
def open_lmdb(tmp_path: Path) -> Iterator[OpenLmdb]:
    """open_lmdb(**options) -> LmdbStore in the test's directory; whatever is still open is closed at the end."""
    opened: list[LmdbStore] = []

    def open_store(directory: Path = tmp_path / "data", **options: Any) -> LmdbStore:
        store = LmdbStore(directory, **{"ballast_bytes": 64 * 1024, "reserve_bytes": 0, **options})
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture(params=["lmdb", "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each store of ours in turn: what a test says of it is the contract."""
    if request.param == "lmdb":
        yield request.getfixturevalue("open_lmdb")()
        return
    memory = MemoryStore()
    yield memory
    memory.close()


def batch_of(*rows: tuple[Table, bytes, bytes | None]) -> Batch:
    """A batch of (table, key, value); None deletes."""
    batch = Batch()
    for table, key, value in rows:
        if value is None:
            batch.delete(table, key)
        else:
            batch.put(table, key, value)
    return batch
