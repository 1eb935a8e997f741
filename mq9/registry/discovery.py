"""Answering DISCOVER and the list: filters, ranking, pages, and what of an agent is shown.

A ranking names documents; here they become agents, if they are still in force and pass the filters at the moment of the
answer. Keyword queries and lists are answered at once, what needs a model on the ranking thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.registry.agents import Agent, AgentTable
from mq9.registry.background import Background
from mq9.registry.jobs import Query, Question, Ranked, Reach
from mq9.registry.paging import KEPT_DEPTH, Order, Orders, depth_of
from mq9.registry.replies import Shown, discover_reply, short_item
from mq9.registry.requests import Discover
from mq9.registry.rows import read_registration, read_report, read_version
from mq9.storage.interface import Store

QUERIES_WAITING_MAX: Final = 1000  # DISCOVERs that wait to be ranked; the next one is refused and may be repeated
FIRST_PAGE_SPARE: Final = 32  # ranked beyond page 1, for hits that are not shown; most callers never ask for page 2
DEEPER: Final = 8

Answer = Callable[[Mq9Error | None, bytes], None]
Hit = tuple[Agent, float]
OnOrdered = Callable[[Order[Agent]], None]
OnFailure = Callable[[Mq9Error], None]


class Discovery:
    """Reads the table and the store; changes neither."""

    def __init__(self, table: AgentTable, store: Store, clock: Clock, background: Background) -> None:
        self._table = table
        self._store = store
        self._clock = clock
        self._background = background
        self._orders: Orders[Agent] = Orders()

    def answer(self, asked: Discover, owner: int, done: Answer) -> None:
        """`done(None, reply)`, at once or when it is ranked."""
        now_ms = self._clock.wall_ms()
        kept = self._orders.find(owner, asked, now_ms) if asked.page else None
        if kept is not None and kept.reaches(asked):
            done(None, self._reply(asked, kept))
            return

        def ordered(order: Order[Agent]) -> None:
            whole = order if kept is None else kept.extend(order)
            self._orders.keep(owner, asked, whole)
            done(None, self._reply(asked, whole))

        # Agents that came after a kept order will be left out of it: look that much further.
        needed = depth_of(asked) + (self._table.newer_than(kept.newest) if kept is not None else 0)
        depth = max(needed, KEPT_DEPTH) if asked.page or asked.mode == "list" else needed + FIRST_PAGE_SPARE
        self.order(asked, Reach(needed, depth), ordered, lambda failure: done(failure, b""))

    def order(self, asked: Discover, reach: Reach, ordered: OnOrdered, failed: OnFailure) -> None:
        """Put the agents that pass the filters in order, at once or when they are ranked."""
        if asked.mode == "list":
            ordered(self._listed(asked, reach.depth))
        elif not len(self._table):
            ordered(self._order([], asked.mode, 0, complete=True))
        else:
            self._ranked(asked, reach, ordered, failed)

    def _listed(self, asked: Discover, depth: int) -> Order[Agent]:
        found = self._table.matching(asked, self._clock.wall_ms())
        chosen = list(islice(found, depth))
        more = sum(1 for _ in found) if asked.filtered else self._table.available - len(chosen)
        return self._order([(agent, 0.0) for agent in chosen], "list", len(chosen) + max(0, more), complete=len(chosen) < depth)

    def _ranked(self, asked: Discover, reach: Reach, ordered: OnOrdered, failed: OnFailure) -> None:
        """Rank the agents that pass the filters, on the ranking thread unless keywords are enough."""
        only = None
        if asked.filtered or 2 * self._table.available < len(self._table):
            only = [agent.doc for agent in self._table.matching(asked, self._clock.wall_ms())]
        question = Question(asked.query, asked.mode, reach.depth, only, reach.frequencies, reach.vectors)

        def ranked(result: Ranked | None) -> None:
            nonlocal question
            if result is None:
                failed(error("UNAVAILABLE", reason="the registry is closing or could not rank"))
                return
            hits = list(self._hits(result, asked))
            if len(hits) < reach.needed and not result.complete and question.depth <= len(result.docs):
                # Too many of the best are gone or not available: look further down.
                question = replace(question, depth=DEEPER * question.depth)
                self._ask(question, ranked, failed)
                return
            total = self._table.available if only is None else len(only)
            if result.mode == "keyword":
                total = len(hits) if result.complete else result.matches
            order = self._order(hits, result.mode, total, complete=result.complete)
            order.partial = result.loading
            ordered(order)

        self._ask(question, ranked, failed)

    def _ask(self, question: Question, ranked: Callable[[Ranked | None], None], failed: OnFailure) -> None:
        if question.mode == "keyword" and self._background.ready:
            ranked(self._background.keywords(question))
        elif len(self._background.queries) >= QUERIES_WAITING_MAX:
            failed(error("LIMIT_EXCEEDED", reason=f"{QUERIES_WAITING_MAX} queries are waiting"))
        else:
            self._background.ask(Query(question, ranked))

    def _hits(self, result: Ranked, asked: Discover) -> Iterator[Hit]:
        """The agents behind documents, without those that are gone, replaced or not to be shown."""
        now_ms = self._clock.wall_ms()
        for doc, score in zip(result.docs, result.scores, strict=True):
            agent = self._table.by_doc.get(doc)
            if agent is not None and self._table.admits(agent, asked, now_ms):
                yield agent, score

    def _order(self, hits: list[Hit], mode: str, total: int, *, complete: bool) -> Order[Agent]:
        return Order(hits, complete, total, mode, self._clock.wall_ms(), self._table.newest_order)

    def _reply(self, asked: Discover, order: Order[Agent]) -> bytes:
        now_ms = self._clock.wall_ms()
        hits = [hit for hit in order.page(asked) if self._table.admits(hit[0], asked, now_ms)]
        shown = (each for agent, score in hits if (each := self.show(agent, score, asked.version)) is not None)
        return discover_reply(shown, now_ms, total=order.total, page=asked.page + 1, limit=asked.limit, mode=order.mode)

    def show(self, agent: Agent, score: float, version: str = "") -> Shown | None:
        """An agent with its registration; None when it is gone by now, damaged, or never had that version."""
        key = agent.key
        registration = read_version(self._store, key, version) if version else read_registration(self._store, key)
        return Shown(agent, registration, read_report(self._store, key), score) if registration is not None else None

    def list(self, name_filter: str, limit: int, page: int) -> tuple[list[dict[str, Any]], int]:
        """A page (from 1) of the agents whose names hold `name_filter`, newest first, and how many there are in all."""
        now_ms = self._clock.wall_ms()
        found = [agent for agent in self._table.newest_first() if name_filter in agent.name]
        chosen = found[(page - 1) * limit : page * limit]
        shown = (each for agent in chosen if (each := self.show(agent, 0.0)) is not None)
        return [short_item(each, now_ms) for each in shown], len(found)
