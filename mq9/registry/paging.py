"""Pages that stay put: the second page of a result continues the first, whatever is registered or removed in between.

Page 1 is ranked when it is asked for, and the order is kept for a while under the connection and the query. Later pages
are cut from that order: an agent that went away is left out of its page, a new one shows up when page 1 is asked for
again. A page beyond what was kept is ranked anew and continues with the agents that were not on the list yet.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, Generic, Protocol, TypeVar

from mq9.registry.requests import Discover

KEPT_DEPTH: Final = 1000  # hits ranked and kept when the page itself needs fewer
KEPT_ORDERS: Final = 256  # of so many queries: 256 x 1000 references are 4 MB
KEPT_MS: Final = 60_000
QUERY_KEY_CHARS_MAX: Final = 256  # a longer query is kept as its digest
ANYONE: Final = -1

QueryKey = tuple[int, Discover]


class Ordered(Protocol):
    """What a hit is of: an agent of this broker, or what is known of one of another."""

    @property
    def order(self) -> int: ...

    def __hash__(self) -> int: ...


Entry = TypeVar("Entry", bound=Ordered)


@dataclass(slots=True)
class Order(Generic[Entry]):
    """Hits in order, as they were at `made_ms`. `complete`: there were no more. `newest` bounds agents added later.
    `partial`: not everything was searchable, or some brokers of a cluster could not be asked."""

    hits: list[tuple[Entry, float]]
    complete: bool
    total: int
    mode: str
    made_ms: int
    newest: int
    partial: bool = False

    def reaches(self, asked: Discover) -> bool:
        """Whether the page asked for can be cut from it."""
        return self.complete or len(self.hits) >= depth_of(asked)

    def page(self, asked: Discover) -> list[tuple[Entry, float]]:
        """The hits of a page; the caller drops those that are gone."""
        return self.hits[asked.page * asked.limit : (asked.page + 1) * asked.limit]

    def extend(self, fresh: Order[Entry]) -> Order[Entry]:
        """This order, continued with what a deeper ranking found; agents newer than this order stay out."""
        known = {agent for agent, _ in self.hits}
        more = [hit for hit in fresh.hits if hit[0] not in known and hit[0].order <= self.newest]
        return Order(
            self.hits + more, fresh.complete, fresh.total, self.mode, self.made_ms, self.newest, self.partial or fresh.partial
        )


class Orders(Generic[Entry]):
    """Orders kept for later pages, by connection and query; the newest of each query also for connections that have none."""

    def __init__(self) -> None:
        self._kept: OrderedDict[QueryKey, Order[Entry]] = OrderedDict()

    def keep(self, owner: int, asked: Discover, order: Order[Entry]) -> None:
        """Remember an order that has more than one page."""
        if order.complete and len(order.hits) <= asked.limit:
            return
        for key in (_key(owner, asked), _key(ANYONE, asked)):
            self._kept[key] = order
            self._kept.move_to_end(key)
        while len(self._kept) > 2 * KEPT_ORDERS:
            self._kept.popitem(last=False)

    def find(self, owner: int, asked: Discover, now_ms: int) -> Order[Entry] | None:
        """The order a later page belongs to, if it is still kept."""
        order = self._kept.get(_key(owner, asked)) or self._kept.get(_key(ANYONE, asked))
        return order if order is not None and now_ms - order.made_ms <= KEPT_MS else None


def depth_of(asked: Discover) -> int:
    """How many hits the page asked for needs, from the top."""
    return (asked.page + 1) * asked.limit


def _key(owner: int, asked: Discover) -> QueryKey:
    query = asked.query
    if len(query) > QUERY_KEY_CHARS_MAX:
        query = blake2b(query.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return owner, replace(asked, page=0, query=query)
