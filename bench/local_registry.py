"""A registry in this process, without a server: what the discovery benchmarks measure is the registry itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from mq9.clock import Clock, SystemClock
from mq9.errors import Mq9Error
from mq9.registry.embedder import Embedder
from mq9.registry.registry import Registry
from mq9.settings import Settings
from mq9.storage.commit import GroupCommit
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.memory_store import MemoryStore

MakeEmbedder = Callable[[Settings, Clock], Embedder | None]


class LocalRegistry:
    """A started registry on LMDB (with fsync) in `path`, or in memory. The loop is whoever waits."""

    def __init__(self, path: Path | None, settings: Settings, make_embedder: MakeEmbedder | None = None) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.clock = SystemClock()
        self.store = MemoryStore() if path is None else LmdbStore(path, reserve_bytes=0)
        self.commit = GroupCommit(self.store, self.clock, call_soon=self._calls.put, call_soon_threadsafe=self._calls.put)
        self.registry = Registry(self.store, self.commit, self.clock, settings, self._calls.put, make_embedder)
        self.registry.start()

    def close(self) -> None:
        self.registry.close()
        self.commit.close()
        self.store.close()

    def turn(self) -> None:
        """Run the next call that is due."""
        self._calls.get()()

    def register_all(self, bodies: list[dict[str, Any]], outstanding: int) -> None:
        """REGISTER them all with so many unanswered at a time."""
        answered = 0

        def done(failure: Mq9Error | None) -> None:
            nonlocal answered
            if failure is not None:
                raise failure
            answered += 1

        for sent, body in enumerate(bodies):
            while sent - answered >= outstanding:
                self.turn()
            self.registry.register(msgspec.json.encode(body), done)
        while answered < len(bodies):
            self.turn()

    def discover(self, **body: Any) -> dict[str, Any]:
        """One DISCOVER, answered."""
        replies: list[bytes] = []

        def answered(failure: Mq9Error | None, reply: bytes) -> None:
            if failure is not None:
                raise failure
            replies.append(reply)

        self.registry.discover(msgspec.json.encode(body), 1, answered)
        while not replies:
            self.turn()
        reply: dict[str, Any] = msgspec.json.decode(replies[0])
        return reply

    def settle(self) -> float:
        """Wait until everything is searchable and nothing is left to do in the background; returns seconds."""
        started_s = time.perf_counter()
        background = self.registry.background
        rests = background.indexer.rests if background.indexer is not None else 0
        while background.indexer is None or background.indexer.rests < rests + 2:
            background.jobs.wake()
            time.sleep(0.01)
        while not self._calls.empty():
            self.turn()
        return time.perf_counter() - started_s
