"""Where slots should be: pure functions. What is, is in the slot table and changes only by commands.

Rendezvous hashing: every (slot, broker) pair has a score, and a slot belongs to the brokers with the highest. When a broker
joins or leaves, only the slots it wins or had are concerned. Scores are weighted as in "Weighted Distributed Hash Tables"
(Schindelhauer, Schomaker, 2005): -weight / ln(h) with h uniform in (0, 1), so that shares are proportional to weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b

from mq9.v1 import meta_pb2 as meta


def score(slot: int, broker: str, weight: int) -> float:
    """The higher, the more the slot belongs there. `weight` is relative to the other brokers' weights."""
    digest = blake2b(b"%d/%s" % (slot, broker.encode()), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 1) / (2**64 + 1)
    return -weight / math.log(uniform)


def target(slot: int, brokers: Iterable[meta.Broker], replicas: int) -> list[str]:
    """The brokers that should have the slot, best first: at most one of each zone while zones suffice.

    Brokers that are drained get nothing; whether fenced ones count is for the caller to say by leaving them out. Fewer than
    `replicas` names when there are not enough brokers.
    """
    usable = [broker for broker in brokers if not broker.drain]
    ranked = sorted(usable, key=lambda broker: (-score(slot, broker.id, broker.weight), broker.id))
    chosen: list[meta.Broker] = []
    zones: set[str] = set()
    for broker in ranked:
        if len(chosen) < replicas and broker.zone not in zones:
            chosen.append(broker)
            zones.add(broker.zone or broker.id)  # a broker without a zone is one of its own
    for broker in ranked:
        if len(chosen) < replicas and broker not in chosen:
            chosen.append(broker)
    return [broker.id for broker in chosen]
