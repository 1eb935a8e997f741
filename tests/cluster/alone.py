"""The replicator of one node, a, that is to lead slot 1; whoever else there is says nothing."""

from __future__ import annotations

from typing import Final

from broker_node.cluster.replicator import TICK_S, Replicator
from broker_node.cluster.slot_commit import SlotCommit
from mq9.errors import StorageError
from mq9.storage.commit import GroupCommit
from mq9.storage.memory_store import MemoryStore
from mq9.testing.clock import ManualClock, ManualLoop
from mq9.v1 import meta_pb2 as meta

SLOT: Final = 1


class View:
    """What node a knows."""

    node = "a"
    incarnation = 1
    lease_s = 1.0

    def __init__(self) -> None:
        self.config: meta.ClusterConfig | None = meta.ClusterConfig(min_in_sync=1)
        self.brokers = {name: meta.Broker(id=name, incarnation=1, state=meta.ALIVE) for name in "abc"}
        self.slots = {SLOT: meta.Slot(slot=SLOT, epoch=5, ver=5, primary="a", replicas="abc", isr="a")}

    def lease_holds(self) -> bool:
        return True


class Alone:
    """See the module. `given_up` counts how often it gave up what it led; `served` is where what it serves is staged."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.loop = ManualLoop(self.clock)
        self.store = MemoryStore()
        call_soon = self.loop.call_soon
        self.commit = GroupCommit(self.store, self.clock, call_soon=call_soon, call_soon_threadsafe=call_soon, mode="inline")
        self.view = View()
        self.given_up = 0
        self.served: dict[int, SlotCommit] = {}
        self.damages: list[tuple[int, StorageError]] = []
        self.replicator = Replicator(self.store, self.commit, self.clock, self.view, self, lambda leader, change: None)
        self.replicator.on_given_up = self._gave_up

    def begin(self) -> None:
        """The lease holds, and the view is there."""
        self.replicator.lease_changed(True)
        self.replicator.view_changed(self.view.slots.values())

    def changed(self, slot: meta.Slot) -> None:
        """The view says something else of a slot."""
        self.view.slots[slot.slot] = slot
        self.replicator.view_changed([slot])

    def ticks(self, count: int = 3) -> None:
        for _ in range(count):
            self.clock.advance(TICK_S)
            self.replicator.tick()
            self.loop.run()

    def open(self, slot: int, commit: SlotCommit) -> None:
        self.served[slot] = commit

    def close_slot(self, slot: int) -> None:
        del self.served[slot]

    def met(self, slot: int, failure: StorageError) -> None:
        self.damages.append((slot, failure))

    def _gave_up(self) -> None:
        self.given_up += 1
