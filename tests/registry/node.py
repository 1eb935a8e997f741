"""A registry on a real store and a hand-turned loop, and embedding providers that tests can watch and break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import msgspec
import numpy as np

from mq9.clock import Clock
from mq9.errors import Mq9Error
from mq9.registry.embedder import Embedder
from mq9.registry.embedding import EmbeddingFailed, EmbeddingProvider, Vectors, unit
from mq9.registry.registry import Registry
from mq9.settings import Settings
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Store
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.memory_store import MemoryStore

PATIENCE_S = 20.0  # a loop that hears nothing for this long has lost a completion


class HandClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self.now_ms / 1000

    def advance(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


class HandLoop:
    """Calls from any thread, run by the thread that waits for something."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.thread = threading.get_ident()

    def call_soon(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Run calls until `done()`; fails when nothing happens for PATIENCE_S."""
        while not done():
            try:
                self._calls.get(timeout=PATIENCE_S)()
            except Empty:
                raise AssertionError("the loop waits for a completion that does not come") from None

    def run_waiting(self) -> None:
        """Run what is queued now."""
        while not self._calls.empty():
            self._calls.get()()


class Words:
    """A model for tests: each word is a direction. Texts with common words are near; everything is counted."""

    def __init__(self, dimensions: int = 64, name: str = "words") -> None:
        self.dimensions = dimensions
        self.model_id = name
        self.texts: list[str] = []
        self.broken = False
        self.hold: threading.Event | None = None

    def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
        if self.hold is not None:
            self.hold.wait(PATIENCE_S)
        if self.broken:
            raise EmbeddingFailed("broken by a test")
        self.texts += texts
        return unit(np.stack([self._vector(text) for text in texts]))

    def close(self) -> None:
        self.hold = None

    def _vector(self, text: str) -> Vectors:
        total = np.zeros(self.dimensions, np.float32)
        for word in text.lower().replace(":", " ").replace(",", " ").split():
            total += np.random.default_rng(sum(word.encode()) * 7919 + len(word)).standard_normal(self.dimensions)
        return total


class OpenStore(Protocol):
    """Opens the same store every time it is called."""

    def __call__(self) -> Store: ...


def lmdb_opener(path: Path) -> OpenStore:
    return lambda: LmdbStore(path / "data", sync=False, reserve_bytes=0)


def memory_opener() -> OpenStore:
    store = MemoryStore()
    return lambda: store


class Node:
    """A registry and what it stands on. `call_*` wait for the answer; `send_*` leave it for later."""

    def __init__(self, open_store: OpenStore, provider: EmbeddingProvider | None, **settings: Any) -> None:
        self.open_store = open_store
        self.provider = provider
        self.fallback: EmbeddingProvider | None = None
        self.clock = HandClock()
        self.settings = Settings(**settings)
        self.start()

    def start(self) -> None:
        self.loop = HandLoop()
        self.store = self.open_store()
        self.commit = GroupCommit(
            self.store, self.clock, call_soon=self.loop.call_soon, call_soon_threadsafe=self.loop.call_soon, mode="inline"
        )
        self.registry = Registry(
            self.store, self.commit, self.clock, self.settings, self.loop.call_soon, make_embedder=self._make_embedder
        )
        self.registry.start()

    def _make_embedder(self, settings: Settings, clock: Clock) -> Embedder | None:
        return Embedder(self.provider, self.fallback, clock) if self.provider is not None else None

    def stop(self) -> None:
        self.registry.close()
        self.commit.close()
        if isinstance(self.store, LmdbStore):
            self.store.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    # --- Commands ---------------------------------------------------------------------------------------------

    def send(self, verb: str, body: object) -> list[Mq9Error | None]:
        """Begin REGISTER, REPORT or UNREGISTER; the list gets the outcome."""
        answers: list[Mq9Error | None] = []
        getattr(self.registry, verb)(_payload(body), answers.append)
        return answers

    def call(self, verb: str, body: object) -> None:
        """Do one of them; raises what it answers."""
        answers = self.send(verb, body)
        self.loop.run_until(lambda: bool(answers))
        if answers[0] is not None:
            raise answers[0]

    def register(self, name: str, **fields: Any) -> None:
        self.call("register", {"name": name, **fields})

    def ask(self, body: object, owner: int = 1) -> list[dict[str, Any]]:
        """Begin a DISCOVER; the list gets the reply."""
        answers: list[dict[str, Any]] = []

        def answered(failure: Mq9Error | None, reply: bytes) -> None:
            answers.append({"failure": failure} if failure is not None else msgspec.json.decode(reply))

        self.registry.discover(_payload(body), owner, answered)
        return answers

    def discover(self, owner: int = 1, /, **body: Any) -> dict[str, Any]:
        answers = self.ask(body, owner)
        self.loop.run_until(lambda: bool(answers))
        if "failure" in answers[0]:
            raise answers[0]["failure"]
        return answers[0]

    def names(self, owner: int = 1, /, **body: Any) -> list[str]:
        """Names of the agents a DISCOVER answers with."""
        return [agent["name"] for agent in self.discover(owner, **body)["agents"]]

    # --- Waiting for the background ---------------------------------------------------------------------------

    def run_until_indexed(self) -> None:
        """Wait until the indexing thread has nothing left to do: it comes to rest twice, as the first may be of before."""
        background = self.registry.background
        started = background.indexer.rests if background.indexer is not None else 0
        deadline_s = time.monotonic() + PATIENCE_S
        while background.indexer is None or background.indexer.rests < started + 2:
            assert time.monotonic() < deadline_s, "the indexing thread does not come to rest"
            background.jobs.wake()
            self.loop.run_waiting()
        self.loop.run_waiting()


def _payload(body: object) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body)
