"""The embedding provider that the settings ask for."""

from __future__ import annotations

import logging

from mq9.clock import Clock
from mq9.registry.embedder import Embedder
from mq9.registry.embedding import Blend, EmbeddingProvider, MiniLm, WordLlama
from mq9.registry.embedding_http import HttpEmbedding
from mq9.settings import Settings

log = logging.getLogger("mq9.registry")


def make_embedder(settings: Settings, clock: Clock) -> Embedder | None:
    """None when agents are to be compared by keywords alone. Loads no model yet."""
    choice = settings.embedding
    if choice == "none":
        return None
    local: EmbeddingProvider = MiniLm()
    if choice == "http":
        if not settings.embedding_url:
            log.error("--embedding http needs --embedding-url; the local model is used")
            return Embedder(local, None, clock)
        remote = HttpEmbedding(
            settings.embedding_url, settings.embedding_model, settings.embedding_key, settings.embedding_timeout_s, clock
        )
        return Embedder(remote, local, clock)
    if choice == "wordllama":
        return Embedder(WordLlama(), local, clock)
    if choice == "blend":
        return Embedder(Blend(MiniLm(), WordLlama()), local, clock)
    return Embedder(local, None, clock)
