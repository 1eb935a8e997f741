"""Who is alive: the sessions of brokers, as the leading meta node counts them. Pure logic; times are passed in.

A broker's lease ends LEASE after it sent the last heartbeat that was answered. It is fenced SESSION after the last heartbeat
was received. A heartbeat is received after it was sent, so the lease is over before anything else may lead, as long as the
two clocks run at rates that differ by less than SESSION / LEASE. Wall clocks are never compared.

A new leader does not know what the one before it renewed. It counts from its first committed barrier: whatever was renewed
before, was renewed by barriers that are older in the log. The same when this process was stopped for a while: heartbeats may
be waiting in its sockets, so the time it did not see does not count.

When other brokers have lost a broker and its heartbeats stop, it is deposed before its session has run out: others lead what
it led, and hold deliveries until its lease must be over. It keeps its session, because it may be alive. When its next
heartbeat is answered it has heard of this, or has no lease: a lease is lent to a view that is new enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mq9.v1 import meta_pb2 as meta

REPORTERS_MIN: Final = 2  # brokers that must have lost another; all, where there are fewer
SILENT_HEARTBEATS: Final = 2  # that must be missing before peers are believed
CLOCK_RATES: Final = 1.1  # how much faster the clock of one machine may run than another's, for deliveries not to overlap


@dataclass(frozen=True, slots=True)
class Leases:
    """Seconds. Brokers heartbeat every `heartbeat_s`, hold a lease for `lease_s`, and are fenced after `session_s`."""

    heartbeat_s: float = 0.5
    lease_s: float = 2.5
    session_s: float = 4.0

    @property
    def pause_s(self) -> float:
        """Two readings of the clock further apart than this mean that this process stood still."""
        return (self.session_s - self.lease_s) / 2


class Sessions:
    """The sessions of one leadership; make a new one for the next."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._counting_since_s: float | None = None  # None: no barrier has committed yet
        self._heard: dict[str, tuple[int, float]] = {}  # broker -> incarnation, when
        self._last_look_s: float | None = None
        self._proven_s = float("-inf")  # when the newest committed barrier was proposed
        self._reports: dict[tuple[str, int], dict[str, float]] = {}  # suspect and its incarnation -> reporter -> when

    def barrier_committed(self, proposed_s: float, now_s: float) -> None:
        """This node led at `proposed_s`, and whatever others renewed was renewed before `now_s`."""
        self._proven_s = max(self._proven_s, proposed_s)
        if self._counting_since_s is None:
            self._counting_since_s = now_s

    def heard(self, broker: str, incarnation: int, now_s: float) -> None:
        """A heartbeat was received, or the broker registered."""
        known = self._heard.get(broker)
        if known is None or known[0] <= incarnation:
            self._heard[broker] = (incarnation, now_s)

    def reported(self, reporter: str, suspect: str, incarnation: int, now_s: float) -> None:
        """A broker says that it has lost another."""
        if reporter != suspect:
            self._reports.setdefault((suspect, incarnation), {})[reporter] = now_s

    def overdue(self, brokers: Iterable[meta.Broker], now_s: float) -> list[meta.Broker]:
        """Whom to fence now. Call it several times within `pause_s`."""
        if self._last_look_s is not None and now_s - self._last_look_s > self._leases.pause_s:
            self._counting_since_s = None if self._counting_since_s is None else now_s
        self._last_look_s = now_s
        return [
            broker
            for broker in brokers
            if broker.state != meta.FENCED and now_s - self._last_s(broker, now_s) > self._leases.session_s
        ]

    def suspected(self, brokers: Iterable[meta.Broker], now_s: float) -> list[tuple[meta.Broker, int]]:
        """Whom to depose now, and for how many milliseconds its lease may still hold. Call it after `overdue`.

        Enough others that are alive have reported it lately, and its heartbeats have stopped.
        """
        alive = {broker.id: broker for broker in brokers if broker.state != meta.FENCED}
        found = []
        for (name, incarnation), reports in list(self._reports.items()):
            fresh = {reporter for reporter, when_s in reports.items() if now_s - when_s <= self._leases.session_s}
            suspect = alive.get(name)
            if not fresh or suspect is None or suspect.incarnation != incarnation:
                del self._reports[name, incarnation]
                continue
            others = alive.keys() - {name}
            silent_s = now_s - self._last_s(suspect, now_s)
            if len(fresh & others) < max(1, min(REPORTERS_MIN, len(others))):
                continue
            if silent_s >= SILENT_HEARTBEATS * self._leases.heartbeat_s:
                del self._reports[name, incarnation]  # once: what it does not bring about, the end of the session will
                left_s = self._leases.lease_s * CLOCK_RATES - silent_s
                found.append((suspect, max(1, math.ceil(left_s * 1000))))
        return found

    def _last_s(self, broker: meta.Broker, now_s: float) -> float:
        """When the broker was last heard, as far as is known; `now_s` when this leader may not act on silence."""
        since_s = self._counting_since_s
        # A leader that cannot commit could not fence either; it must not act on what it did not hear meanwhile.
        if since_s is None or now_s - self._proven_s > self._leases.pause_s:
            return now_s
        incarnation, heard_s = self._heard.get(broker.id, (0, since_s))
        return max(since_s, heard_s) if incarnation == broker.incarnation else since_s
