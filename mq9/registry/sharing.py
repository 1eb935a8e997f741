"""What the brokers of a cluster tell each other about their agents, and how answers of several become one.

Every broker ranks the agents of the slots it leads by the scores of ranking.py, which depend on the query and the agent
alone, once the words of the query weigh the same everywhere (`weights`). So the lists merge by score, equal scores in order
of registration, as on one broker. What an agent looks like is asked of its broker when a page is put together.

A share names the slots it covers: those its broker had the agents of all the time from the question to the answer. Who has
asked adds them up and knows whether anybody is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec

from mq9.errors import Mq9Error
from mq9.registry.agents import Agent
from mq9.registry.discovery import OnFailure
from mq9.registry.jobs import Frequencies, QueryVectors, Reach
from mq9.registry.paging import Order
from mq9.registry.registry import Registry
from mq9.registry.replies import full_item, short_item
from mq9.registry.requests import Discover

ITEMS_BYTES_MAX: Final = 1024 * 1024  # of one answer with items; the rest is asked for again

_encoder: Final = msgspec.json.Encoder()


class Found(NamedTuple):
    """An agent of any broker, as a ranking knows it."""

    name: str
    order: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What a broker is asked to rank. `newest`: agents of a later order are left out; 0: none is."""

    asked: Discover
    needed: int
    depth: int
    newest: int = 0
    frequencies: Frequencies | None = None
    vectors: QueryVectors | None = None


@dataclass(slots=True)
class Share:
    """One broker's part of a ranking, best first. `loading`: not everything that should be searchable is."""

    hits: list[tuple[Found, float]] = field(default_factory=list)
    complete: bool = True
    total: int = 0
    mode: str = ""
    newest: int = 0
    loading: bool = False
    slots: frozenset[int] = frozenset()


class Item(NamedTuple):
    """An agent as a reply shows it, in JSON; empty when it is gone. `size` is that of its bodies."""

    json: bytes
    size: int


class Sharing:
    """What one registry tells others. On the loop's thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def weigh(self, query: str) -> Frequencies:
        """How many agents here have each term of a query."""
        engine = self._registry.background.engine
        return engine.frequencies(query) if engine is not None else Frequencies(0, ())

    def rank(self, ask: Ask, done: Callable[[Share], None], failed: OnFailure) -> None:
        """Rank the agents here; `done`, at once or when that is done."""
        registry = self._registry
        registry.expire()
        before = dict(registry.slots)
        newer = registry.table.newer_than(ask.newest) if ask.newest else 0
        reach = Reach(ask.needed + newer, ask.depth + newer, ask.frequencies, ask.vectors)

        def ordered(order: Order[Agent]) -> None:
            hits = [(Found(agent.name, agent.order), score) for agent, score in order.hits if not agent.gone]
            if ask.newest:
                hits = [hit for hit in hits if hit[0].order <= ask.newest]
            covered = frozenset(slot for slot, gain in before.items() if registry.slots.get(slot) == gain)
            done(Share(hits, order.complete, order.total, order.mode, order.newest, order.partial, covered))

        registry.discovery.order(ask.asked, reach, ordered, failed)

    def show(self, asked: Discover, wanted: Sequence[tuple[str, float]], *, brief: bool = False) -> list[Item]:
        """Agents as the reply to `asked` shows them, with these scores: as many of the first as fit into one answer."""
        registry = self._registry
        now_ms = registry.expire()
        items: list[Item] = []
        room = ITEMS_BYTES_MAX
        for name, score in wanted:
            agent = registry.table.by_name.get(name)
            shown = None
            if agent is not None and registry.table.admits(agent, asked, now_ms):
                shown = registry.discovery.show(agent, score, asked.version)
            if shown is None:
                items.append(Item(b"", 0))
                continue
            item = _encoder.encode(short_item(shown, now_ms) if brief else full_item(shown, now_ms))
            room -= len(item)
            if room < 0 and items:
                break
            size = len(shown.registration.body) + (len(shown.report.body) if shown.report is not None else 0)
            items.append(Item(item, size))
        return items

    def find(self, mailbox: str) -> Found | None:
        """The agent here that has this mailbox and is named otherwise."""
        try:
            agent = self._registry.find(mailbox)
        except Mq9Error:
            return None
        return Found(agent.name, agent.order)


def merge(shares: Collection[Share], mode: str, now_ms: int) -> Order[Found]:
    """One order from those of several brokers. It ends where the first of them ends that could have said more."""
    best: dict[str, tuple[tuple[float, int], Found, float]] = {}
    for share in shares:
        for found, score in share.hits:
            # An agent whose slot moved while we asked may be in two shares.
            best.setdefault(found.name, (_place(found, score, mode), found, score))
    ends = [_place(*share.hits[-1], mode) for share in shares if share.hits and not share.complete]
    end = min(ends, default=None)
    merged = sorted(each for each in best.values() if end is None or each[0] <= end)
    return Order(
        hits=[(found, score) for _, found, score in merged],
        complete=all(share.complete for share in shares),
        total=sum(share.total for share in shares),
        mode=mode,
        made_ms=now_ms,
        newest=max((share.newest for share in shares), default=0),
    )


def _place(found: Found, score: float, mode: str) -> tuple[float, int]:
    return (0.0, -found.order) if mode == "list" else (-score, found.order)


def weights(parts: Collection[Frequencies]) -> Frequencies | None:
    """The frequencies of a query's terms over all brokers; None where they do not speak of the same terms."""
    parts = [part for part in parts if part.documents]
    if len({len(part.with_term) for part in parts}) != 1:
        return None
    return Frequencies(
        sum(part.documents for part in parts), tuple(map(sum, zip(*(part.with_term for part in parts), strict=True)))
    )


def by_mode(asked: Discover, mode: str) -> Discover:
    """The same question, ranked in another way."""
    return replace(asked, mode=mode) if mode else asked
