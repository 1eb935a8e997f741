"""From settings to a store."""

from __future__ import annotations

from mq9.settings import Settings
from mq9.storage.interface import Store
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.memory_store import MemoryStore


def open_store(settings: Settings) -> Store:
    """The store that `settings` ask for. Raises STORAGE_FAILED or DATA_DAMAGED, naming the directory and the reason."""
    if settings.storage == "memory":
        return MemoryStore()
    return LmdbStore(settings.data_dir, sync=settings.sync, reserve_bytes=settings.disk_reserve, crash_marker=True)
