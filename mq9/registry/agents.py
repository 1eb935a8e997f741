"""The agents that are there now: the table every search result is checked against before it is answered.

It lives on the loop's thread and holds what is needed to find, filter and order agents; bodies stay in the store. An
index may lag behind or hold old revisions: a hit counts only if its document number is in this table, so what was
unregistered or has expired is gone from the next answer on. Time is always passed in, in milliseconds since 1970.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import count, takewhile
from sys import intern
from typing import Final

from mq9.registry.records import ACTIVE, REVOKED, Registration, Report
from mq9.registry.requests import Discover, status_admits

HEARTBEATS_MISSED_MAX: Final = 3  # one lost or late report must not take an agent out of service
ONLINE: Final = "online"
OFFLINE: Final = "offline"
# Statuses with which an agent says itself that it cannot be used.
UNAVAILABLE: Final = frozenset((OFFLINE, "unavailable", "down", "stopped"))
DEADLINES_MIN: Final = 1024
ORDER_BITS: Final = 20  # of an `order`, what tells agents of one millisecond apart
_NEVER: Final = 1 << 62


class Agent:
    """One registered agent. The object stays the same over all its revisions; `gone` says that it is no more."""

    __slots__ = (
        "created_ms",
        "dismissed",
        "doc",
        "expires_ms",
        "gone",
        "heartbeat_s",
        "key",
        "last_seen_ms",
        "mailbox",
        "missed_ms",
        "name",
        "order",
        "revision",
        "state",
        "status",
        "tags",
        "ttl_s",
        "updated_ms",
    )

    def __init__(self, name: str, key: bytes, doc: int, order: int) -> None:
        self.name = name
        self.key = key  # of its AGENT row
        self.doc = doc  # document number of the revision in force
        self.order = order  # ascends with the time of first registration, also over several brokers: see `order_at`
        self.mailbox = name
        self.revision = 0
        self.created_ms = 0
        self.updated_ms = 0
        self.last_seen_ms = 0
        self.ttl_s = 0
        self.expires_ms = _NEVER
        self.heartbeat_s = 0
        self.missed_ms = _NEVER  # when so many heartbeats are missing that it counts as offline
        self.state = ACTIVE
        self.status = ONLINE
        self.tags: tuple[str, ...] = ()
        self.gone = False
        self.dismissed = False  # an UNREGISTER for it was accepted

    def describe(self, registration: Registration) -> None:
        """Take over a registration."""
        self.mailbox = registration.mailbox if registration.mailbox != self.name else self.name
        self.revision = registration.revision
        self.created_ms = registration.created_ms
        self.updated_ms = registration.updated_ms
        self.ttl_s = registration.ttl_s
        self.heartbeat_s = registration.heartbeat_s
        self.state = intern(registration.state)
        self.status = intern(registration.status or ONLINE)
        self.tags = tuple(intern(tag.lower()) for tag in registration.tags)
        self._seen(registration.updated_ms)

    def reported(self, report: Report) -> None:
        """Take over a report."""
        self.ttl_s = report.ttl_s
        self.heartbeat_s = report.heartbeat_s
        self.state = intern(report.state)
        self.status = intern(report.status or ONLINE)
        self._seen(report.last_seen_ms)

    def _seen(self, now_ms: int) -> None:
        self.last_seen_ms = now_ms
        self.expires_ms = now_ms + 1000 * self.ttl_s if self.ttl_s else _NEVER

    def expect_heartbeat(self, default_s: int, since_ms: int) -> None:
        """Set when it counts as offline. `since_ms` is later than its last report after a restart: it could not report."""
        interval_s = self.heartbeat_s or default_s
        self.missed_ms = since_ms + 1000 * interval_s * HEARTBEATS_MISSED_MAX if interval_s else _NEVER

    def status_at(self, now_ms: int) -> str:
        """Its status, `offline` when its heartbeats are missing."""
        return OFFLINE if now_ms >= self.missed_ms else self.status

    def available(self, now_ms: int) -> bool:
        """Whether it can be offered to somebody: there, not revoked, not known to be out of service."""
        return (
            not self.gone
            and now_ms < self.expires_ms
            and now_ms < self.missed_ms
            and self.state != REVOKED
            and self.status not in UNAVAILABLE
        )


def order_at(created_ms: int, place: int = 0) -> int:
    """The `order` of an agent first registered at this time, as the `place`-th of that millisecond."""
    return created_ms << ORDER_BITS | place & (1 << ORDER_BITS) - 1


class Deadlines:
    """Which agents have something due, soonest first. One entry an agent, moved on when it turns out to be too early:
    an agent that reports every ten seconds and lives for a day costs one entry, not nine thousand."""

    def __init__(self, deadline_ms: Callable[[Agent], int]) -> None:
        self._deadline_ms = deadline_ms
        self._heap: list[tuple[int, int, Agent]] = []
        self._queued: dict[Agent, int] = {}
        self._sequence = count()

    def set(self, agent: Agent) -> None:
        """Note the agent's deadline after it may have changed."""
        deadline_ms = self._deadline_ms(agent)
        if deadline_ms < self._queued.get(agent, _NEVER):
            self._queued[agent] = deadline_ms
            heapq.heappush(self._heap, (deadline_ms, next(self._sequence), agent))

    def due(self, now_ms: int) -> Iterator[Agent]:
        """Agents whose deadline has come."""
        while self._heap and self._heap[0][0] <= now_ms:
            noted_ms, _, agent = heapq.heappop(self._heap)
            if self._queued.get(agent) != noted_ms:
                continue
            del self._queued[agent]
            if agent.gone:
                continue
            if self._deadline_ms(agent) <= now_ms:
                yield agent
            else:
                self.set(agent)

    def forget_gone(self, live: int) -> None:
        """Drop the entries of agents that are no more, once they are the larger part."""
        if len(self._heap) <= 2 * live + DEADLINES_MIN:
            return
        self._heap = [entry for entry in self._heap if not entry[2].gone and self._queued.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)
        self._queued = {agent: deadline_ms for deadline_ms, _, agent in self._heap}


class AgentTable:
    """All agents, by name, document, tag, slot and order of registration."""

    def __init__(self) -> None:
        self.by_name: dict[str, Agent] = {}
        self.by_doc: dict[int, Agent] = {}
        self._in_order = True  # by_name is sorted by order of first registration
        self._by_slot: dict[bytes, dict[str, Agent]] = {}
        self._by_tag: dict[str, dict[str, Agent]] = {}
        self._by_mailbox: dict[str, Agent] = {}  # where it is not the name; of several with one mailbox, the last registered
        self._names: list[str] = []  # sorted
        self._names_ready = True
        self._withheld: set[str] = set()  # names of agents that are there but not available
        self._expiry = Deadlines(lambda agent: agent.expires_ms)
        self._missing = Deadlines(lambda agent: agent.missed_ms)

    def __len__(self) -> int:
        return len(self.by_name)

    def put(self, agent: Agent, doc: int, registration: Registration) -> int | None:
        """Put `registration` in force under document number `doc`; returns the number it replaces."""
        former = self.by_name.get(agent.name)
        known = former is agent
        if former is not None and not known:
            self.remove(former)  # its removal was asked for and failed to become durable, but this one did
        old = self.by_doc.pop(agent.doc, None) if known else None
        self._untag(agent)
        agent.doc = doc
        agent.describe(registration)
        self.by_doc[doc] = agent
        if not known:
            self.by_name[agent.name] = agent
            self._by_slot.setdefault(agent.key[:2], {})[agent.name] = agent
            if self._names_ready:
                insort(self._names, agent.name)
        self._tag(agent)
        return old.doc if old is not None else None

    def refresh(self, agent: Agent, now_ms: int) -> None:
        """Take note of changed times, state or status."""
        self._expiry.set(agent)
        self._missing.set(agent)
        if agent.available(now_ms):
            self._withheld.discard(agent.name)
        else:
            self._withheld.add(agent.name)

    def remove(self, agent: Agent) -> None:
        """It is no more."""
        agent.gone = True
        if self.by_name.get(agent.name) is not agent:
            return
        del self.by_name[agent.name]
        del self._by_slot[agent.key[:2]][agent.name]
        self.by_doc.pop(agent.doc, None)
        self._withheld.discard(agent.name)
        self._untag(agent)
        if self._names_ready:
            del self._names[bisect_left(self._names, agent.name)]
        self._expiry.forget_gone(len(self))
        self._missing.forget_gone(len(self))

    def expire(self, now_ms: int) -> list[Agent]:
        """Remove the agents whose time is over; returns them. Also notes whose heartbeats are missing."""
        over = list(self._expiry.due(now_ms))
        for agent in over:
            self.remove(agent)
        self._withheld.update(agent.name for agent in self._missing.due(now_ms))
        return over

    @property
    def available(self) -> int:
        """Agents that can be offered, as of the last `expire`."""
        return len(self.by_name) - len(self._withheld)

    @property
    def newest_order(self) -> int:
        """The `order` of the agent that was registered last; 0 when there is none."""
        return next((agent.order for agent in self.newest_first()), 0)

    def newer_than(self, order: int) -> int:
        """How many agents were registered first after the one of this `order`."""
        return sum(1 for _ in takewhile(lambda agent: agent.order > order, self.newest_first()))

    def newest_first(self) -> Iterator[Agent]:
        """All agents, the one that was registered last first."""
        if not self._in_order:
            self.by_name = dict(sorted(self.by_name.items(), key=lambda item: item[1].order))
            self._in_order = True
        return reversed(self.by_name.values())

    def matching(self, asked: Discover, now_ms: int) -> Iterator[Agent]:
        """Agents that pass the filters of a request, newest first."""
        if asked.name:
            agent = self.by_name.get(asked.name)
            chosen: Iterable[Agent] = (agent,) if agent is not None else ()
        elif asked.tags:
            tagged = min((self._by_tag.get(tag, {}) for tag in asked.tags), key=len)
            chosen = sorted(tagged.values(), key=lambda each: -each.order)
        elif asked.prefix:
            chosen = sorted(self.with_prefix(asked.prefix), key=lambda each: -each.order)
        else:
            chosen = self.newest_first()
        return (agent for agent in chosen if self.admits(agent, asked, now_ms))

    def admits(self, agent: Agent, asked: Discover, now_ms: int) -> bool:
        """Whether `agent` may be in the answer to `asked`. Without a status or state filter: only if it is available."""
        if agent.gone or now_ms >= agent.expires_ms:
            return False
        if not asked.filtered:
            return agent.available(now_ms)
        if (asked.name and agent.name != asked.name) or not agent.name.startswith(asked.prefix):
            return False
        if not asked.tags.issubset(agent.tags):
            return False
        if asked.state != agent.state and (asked.state or agent.state == REVOKED):
            return False
        if asked.statuses:
            return status_admits(asked.statuses, agent.status_at(now_ms))
        return asked.state == REVOKED or agent.available(now_ms)

    def with_prefix(self, prefix: str) -> Iterator[Agent]:
        """Agents whose names begin with `prefix`, by name."""
        if not self._names_ready:  # made when it is first asked for after a restart, not while starting
            self._names = sorted(self.by_name)
            self._names_ready = True
        for index in range(bisect_left(self._names, prefix), len(self._names)):
            name = self._names[index]
            if not name.startswith(prefix):
                return
            yield self.by_name[name]

    def load(self, agents: list[Agent], now_ms: int) -> None:
        """Take in what was stored: everything after a restart, the agents of a slot when this broker comes to lead it."""
        self._names_ready = False
        self._in_order = not self.by_name
        for agent in sorted(agents, key=lambda each: each.order):
            self.by_name[agent.name] = agent
            self.by_doc[agent.doc] = agent
            self._by_slot.setdefault(agent.key[:2], {})[agent.name] = agent
            self._tag(agent)
            self.refresh(agent, now_ms)

    def drop_slot(self, slot: bytes) -> list[Agent]:
        """Forget the agents whose keys begin with `slot`, as another broker leads it now; returns them."""
        dropped = list(self._by_slot.pop(slot, {}).values())
        self._names_ready = self._names_ready and not dropped
        for agent in dropped:
            agent.gone = True
            del self.by_name[agent.name]
            self.by_doc.pop(agent.doc, None)
            self._withheld.discard(agent.name)
            self._untag(agent)
        self._expiry.forget_gone(len(self))
        self._missing.forget_gone(len(self))
        return dropped

    def find(self, name: str, *, named: bool) -> Agent | None:
        """The agent of that name; where a mailbox was given in its place, the agent that has it."""
        agent = self.by_name.get(name)
        return agent if agent is not None or named else self._by_mailbox.get(name)

    def _tag(self, agent: Agent) -> None:
        if agent.mailbox != agent.name:
            self._by_mailbox[agent.mailbox] = agent
        for tag in agent.tags:
            self._by_tag.setdefault(tag, {})[agent.name] = agent

    def _untag(self, agent: Agent) -> None:
        if self._by_mailbox.get(agent.mailbox) is agent:
            del self._by_mailbox[agent.mailbox]
        for tag in agent.tags:
            tagged = self._by_tag.get(tag)
            if tagged is not None:
                tagged.pop(agent.name, None)
                if not tagged:
                    del self._by_tag[tag]
