"""Where slots should be: pure functions. What is, is in the slot table and changes only by commands.

Rendezvous hashing: every (slot, broker) pair has a score, and a slot belongs to the brokers with the highest. When a broker
joins or leaves, only the slots it wins or had are concerned. Scores are weighted as in "Weighted Distributed Hash Tables"
(Schindelhauer, Schomaker, 2005): -weight / ln(u) with u uniform in (0, 1), so that shares are proportional to weights.
"""

from __future__ import annotations

import heapq
import math
import struct
from array import array
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import shake_256
from typing import NamedTuple

from mq9.limits import META_BROKERS_MAX, META_SLOTS_MAX
from mq9.v1 import meta_pb2 as meta


class Place(NamedTuple):
    """What placement asks of a broker."""

    weight: int
    zone: str


@lru_cache(maxsize=META_BROKERS_MAX)
def _draws(broker: str) -> array[float]:
    """-1 / ln(u) for every slot."""
    words = struct.unpack(f">{META_SLOTS_MAX}Q", shake_256(broker.encode()).digest(8 * META_SLOTS_MAX))
    return array("d", [-1 / math.log(((word >> 11) + 0.5) / 2**53) for word in words])


def score(slot: int, broker: str, weight: int) -> float:
    """The higher, the more the slot belongs there. `weight` is relative to the other brokers' weights."""
    return weight * _draws(broker)[slot]


def places_of(brokers: Iterable[meta.Broker]) -> dict[str, Place]:
    """Those that may be given something: not the drained ones."""
    return {broker.id: Place(broker.weight, broker.zone) for broker in brokers if not broker.drain}


def target(slot: int, places: Mapping[str, Place], replicas: int) -> list[str]:
    """The brokers that should have the slot, best first: at most one of each zone while zones suffice.

    Whether fenced brokers count is for the caller to say by leaving them out. Fewer than `replicas` names when there are not
    enough brokers.
    """
    ranked = [(-score(slot, name, place.weight), name) for name, place in places.items()]
    heapq.heapify(ranked)  # few are looked at
    chosen: list[tuple[float, str]] = []
    passed: list[tuple[float, str]] = []
    zones: set[str] = set()
    while ranked and len(chosen) < replicas:
        best = heapq.heappop(ranked)
        zone = places[best[1]].zone
        if zone in zones:
            passed.append(best)
            continue
        chosen.append(best)
        if zone:  # a broker without one is a zone of its own
            zones.add(zone)
    return [name for _, name in [*chosen, *passed[: replicas - len(chosen)]]]


class Targets:
    """The targets of all slots, kept: of a change, only the slots that it concerns are looked at again."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._replicas = 0
        self._chosen: list[list[str]] = []

    def knows(self, slots: int, places: dict[str, Place], replicas: int) -> bool:
        """Whether `of` has nothing to do."""
        return (len(self._chosen), self._places, self._replicas) == (slots, places, replicas)

    def of(self, slots: int, places: dict[str, Place], replicas: int) -> list[list[str]]:
        """By slot. Not to be changed by the caller."""
        if len(self._chosen) != slots or self._replicas != replicas:
            self._chosen = [target(slot, places, replicas) for slot in range(slots)]
        elif places != self._places:
            before = self._places
            gone = {name for name, place in before.items() if places.get(name) != place}
            come = [(name, place.weight) for name, place in places.items() if before.get(name) != place]
            for slot, chosen in enumerate(self._chosen):
                if not gone.isdisjoint(chosen) or (come and self._may_enter(slot, chosen, come, replicas)):
                    self._chosen[slot] = target(slot, places, replicas)
        self._places, self._replicas = places, replicas
        return self._chosen

    def _may_enter(self, slot: int, chosen: list[str], come: list[tuple[str, int]], replicas: int) -> bool:
        """Whether one of those that came may belong to the chosen, none of which has gone."""
        zones = {self._places[name].zone or name for name in chosen}
        if len(zones) < replicas:
            return True  # too few, or too few zones: a new one may be better though it scores less
        least = min(score(slot, name, self._places[name].weight) for name in chosen)
        return any(score(slot, name, weight) >= least for name, weight in come)
