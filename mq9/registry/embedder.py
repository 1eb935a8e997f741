"""Which model is in use now: the chosen provider, its stand-in while it fails, and a memory of texts embedded lately.

Changing the model changes the vector space, so the registry embeds every agent again in the background (indexer.py) and
ranks by keywords what it has not got to. Going back is cheap: vectors of both models are kept with the agent's record.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Final, NamedTuple

import numpy as np

from mq9.clock import Clock
from mq9.registry.embedding import EmbeddingFailed, EmbeddingProvider, Vectors

log = logging.getLogger("mq9.registry")

RETRY_S_MIN: Final = 30.0  # switching re-embeds: not at every hiccup
RETRY_S_MAX: Final = 600.0
REMEMBERED_TEXTS: Final = 2048  # 3 MB: agents that are started many times, and needs that are asked for again and again


class Embedded(NamedTuple):
    """Vectors and the space they are in: model and dimensions."""

    space: str
    vectors: Vectors


class Embedder:
    """Thread-safe. `fallback` None: while the provider fails there are no vectors."""

    def __init__(self, provider: EmbeddingProvider, fallback: EmbeddingProvider | None, clock: Clock) -> None:
        self._provider = provider
        self._fallback = fallback
        self._clock = clock
        self._lock = threading.Lock()
        self._failing_since_s: float | None = None
        self._retry_at_s = 0.0
        self._retry_s = RETRY_S_MIN
        self._memory: OrderedDict[tuple[str, bool, str], Vectors] = OrderedDict()
        self.texts_embedded = 0  # by a model, not from memory

    @property
    def model_id(self) -> str:
        """The model the next text will be given to."""
        return self._active().model_id

    @property
    def failing(self) -> bool:
        """True while the chosen provider does not answer."""
        return self._failing_since_s is not None

    def embed(self, texts: list[str], *, query: bool = False) -> Embedded:
        """Vectors of `texts` by the model in use. Raises EmbeddingFailed when no model can."""
        provider = self._active()
        if provider is self._provider and self.failing and self._clock.monotonic_s() < self._retry_at_s:
            raise EmbeddingFailed("it failed a moment ago")
        try:
            return self._embed(provider, texts, query=query)
        except EmbeddingFailed as failure:
            self._failed(provider, failure)
            if provider is not self._provider or self._fallback is None:
                raise
        return self._embed(self._fallback, texts, query=query)

    def probe(self) -> None:
        """When the chosen provider has failed and its time has come, see whether it works again. Blocks; not for queries."""
        if self._failing_since_s is None or self._clock.monotonic_s() < self._retry_at_s:
            return
        try:
            self._provider.embed(["ready"])
        except EmbeddingFailed as failure:
            self._failed(self._provider, failure)
            return
        with self._lock:
            self._failing_since_s = None
            self._retry_s = RETRY_S_MIN
        log.info("embedding by %s works again", self._provider.model_id)

    def close(self) -> None:
        """After the last text."""
        self._provider.close()
        if self._fallback is not None:
            self._fallback.close()

    def _active(self) -> EmbeddingProvider:
        failing = self._failing_since_s is not None and self._fallback is not None
        return self._fallback if failing and self._fallback is not None else self._provider

    def _failed(self, provider: EmbeddingProvider, failure: EmbeddingFailed) -> None:
        if provider is not self._provider:
            return
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._failing_since_s is None:
                self._failing_since_s = now_s
                instead = self._fallback.model_id if self._fallback else "keywords alone"
                log.warning("embedding by %s failed: %s; using %s", provider.model_id, failure, instead)
            elif now_s >= self._retry_at_s:
                self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
            self._retry_at_s = now_s + self._retry_s

    def _embed(self, provider: EmbeddingProvider, texts: list[str], *, query: bool) -> Embedded:
        if not texts:
            return Embedded("", np.zeros((0, 0), np.float32))
        model = provider.model_id
        known = self._recall(model, texts, query=query)
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            vectors = provider.embed(missing, query=query)
            # Half precision is what is stored: using it at once makes scores the same before and after a restart.
            vectors = vectors.astype(np.float16).astype(np.float32)
            found = dict(zip(missing, vectors, strict=True))
            self._remember(model, found, query=query)
            known |= found
        rows = np.stack([known[text] for text in texts])
        return Embedded(space_id(model, rows.shape[1]), rows)

    def _recall(self, model: str, texts: list[str], *, query: bool) -> dict[str, Vectors]:
        with self._lock:
            found = {}
            for text in texts:
                vector = self._memory.get((model, query, text))
                if vector is not None:
                    self._memory.move_to_end((model, query, text))
                    found[text] = vector
        return found

    def _remember(self, model: str, found: dict[str, Vectors], *, query: bool) -> None:
        with self._lock:
            self.texts_embedded += len(found)
            for text, vector in found.items():
                self._memory[model, query, text] = vector
            while len(self._memory) > REMEMBERED_TEXTS:
                self._memory.popitem(last=False)


def space_id(model_id: str, dimensions: int) -> str:
    """The name of a vector space. Vectors of two spaces are never compared."""
    return f"{model_id}/{dimensions}"
