"""Agents spread over the registries of several brokers, as in a cluster, and asked as one: what merging does to the ranking.

The way of broker_node/cluster/registry_peers.py without streams: weigh, rank by each, merge.
"""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import msgspec

from bench.local_registry import LocalRegistry
from mq9.errors import Mq9Error
from mq9.registry.discovery import FIRST_PAGE_SPARE
from mq9.registry.jobs import EmbedQuery, QueryVectors
from mq9.registry.requests import parse_discover
from mq9.registry.sharing import Ask, Share, Sharing, merge, weights
from mq9.settings import Settings
from mq9.storage.layout import slot_of


class SpreadRegistry:
    """So many registries in memory; an agent is in the one that leads its slot, slots being dealt out in turn."""

    def __init__(self, settings: Settings, brokers: int) -> None:
        self._parts = [LocalRegistry(None, settings) for _ in range(brokers)]
        self._sharing = [Sharing(part.registry) for part in self._parts]

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def register_all(self, bodies: list[dict[str, Any]], outstanding: int) -> None:
        """REGISTER them all, each where it belongs."""
        for number, part in enumerate(self._parts):
            mine = [body for body in bodies if slot_of(body["name"].encode()) % len(self._parts) == number]
            part.register_all(mine, outstanding)

    def discover(self, **body: Any) -> dict[str, Any]:
        """One DISCOVER of one page; agents by name alone."""
        asked = parse_discover(msgspec.json.encode(body))
        frequencies = weights([each.weigh(asked.query) for each in self._sharing])
        vectors = self._embed(asked.query) if asked.mode != "keyword" else None
        ask = Ask(asked, asked.limit, asked.limit + FIRST_PAGE_SPARE, frequencies=frequencies, vectors=vectors)
        order = merge([self._rank(number, ask) for number in range(len(self._parts))], asked.mode, 0)
        return {"agents": [{"name": found.name, "score": score} for found, score in order.page(asked)]}

    def _embed(self, query: str) -> QueryVectors | None:
        embedded: list[QueryVectors | None] = []
        self._parts[0].registry.background.ask(EmbedQuery(query, embedded.append))
        while not embedded:
            self._parts[0].turn()
        return embedded[0]

    def _rank(self, number: int, ask: Ask) -> Share:
        shares: SimpleQueue[Share] = SimpleQueue()

        def failed(failure: Mq9Error) -> None:
            raise failure

        self._sharing[number].rank(ask, shares.put, failed)
        while shares.empty():
            self._parts[number].turn()
        return shares.get()
