"""What a view of the cluster amounts to, for people, monitors and metrics. Pure functions of the meta service's messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from mq9.v1 import meta_pb2 as meta


@dataclass(slots=True)
class Share:
    """What one broker has: slots it leads, slots it follows in sync, and slots it is a replica of without being in sync."""

    leads: int = 0
    follows: int = 0
    lags: int = 0

    @property
    def holds(self) -> int:
        return self.leads + self.follows + self.lags


@dataclass(slots=True)
class Summary:
    """Numbers of slots in each condition. A slot may be in several."""

    shares: dict[str, Share] = field(default_factory=dict)
    without_primary: list[int] = field(default_factory=list)
    under_replicated: list[int] = field(default_factory=list)  # a replica is not in sync
    not_writable: list[int] = field(default_factory=list)  # fewer in sync than a write needs, or nobody leads
    lost: list[int] = field(default_factory=list)  # nobody leads until an operator decides
    moving: list[int] = field(default_factory=list)


def summary(config: meta.ClusterConfig, brokers: Iterable[meta.Broker], slots: Iterable[meta.Slot]) -> Summary:
    """The condition of the cluster."""
    found = Summary({broker.id: Share() for broker in sorted(brokers, key=lambda broker: broker.id)})
    for slot in sorted(slots, key=lambda slot: slot.slot):
        conditions = {
            "without_primary": not slot.primary,
            "under_replicated": any(name not in slot.isr for name in slot.replicas),
            "not_writable": not slot.primary or len(slot.isr) < config.min_in_sync,
            "lost": bool(slot.lost_disk),
            "moving": bool(slot.adding or slot.removing),
        }
        for condition, holds in conditions.items():
            if holds:
                getattr(found, condition).append(slot.slot)
        for name in {*slot.replicas, *slot.adding}:
            share = found.shares.setdefault(name, Share())
            if name == slot.primary:
                share.leads += 1
            elif name in slot.isr:
                share.follows += 1
            else:
                share.lags += 1
    return found


def evened(brokers: Iterable[meta.Broker], slots: Iterable[meta.Slot]) -> list[tuple[meta.Slot, str]]:
    """Which slots another in-sync replica should lead, so that all lead about as many in proportion to their weight.

    As few as that takes. After a failure the brokers that stayed lead everything, and nothing moves back by itself.
    """
    weights = {broker.id: max(1, broker.weight) for broker in brokers if broker.state == meta.ALIVE}
    led = Counter(dict.fromkeys(weights, 0))
    movable = [slot for slot in slots if slot.primary and not (slot.adding or slot.removing)]
    led.update(slot.primary for slot in movable if slot.primary in weights)
    changes = []
    for slot in movable:
        if slot.primary not in weights:
            continue
        heirs = [name for name in slot.isr if name in weights and name != slot.primary]
        to = min(heirs, key=lambda name: ((led[name] + 1) / weights[name], name), default="")
        # Only if it would still not lead more than the one it relieves: else two of them swap for ever.
        if to and (led[to] + 1) / weights[to] <= (led[slot.primary] - 1) / weights[slot.primary]:
            led[slot.primary] -= 1
            led[to] += 1
            changes.append((slot, to))
    return changes
