"""The slots that a node of a cluster serves: a partition for each, for as long as the replicator says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker_node.cluster.elsewhere import Elsewhere
from broker_node.partition import Partition
from mq9.errors import StorageError

if TYPE_CHECKING:
    from broker_node.broker import Broker
    from broker_node.cluster.slot_commit import SlotCommit


class Served:
    """The `Partitions` of the replicator."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.elsewhere: Elsewhere
        self.on_damaged: Callable[[int, StorageError], None]
        self.partitions: dict[int, Partition] = {}

    def open(self, slot: int, commit: SlotCommit) -> None:
        """Everything the slot has is committed: take it up. Commands for it are let in from here on."""
        broker = self._broker
        partition = Partition(broker.host, broker.store, commit, slot=slot, slots=broker.cluster.slots)

        def damaged(failure: StorageError) -> None:
            # Not at once: whoever meets the damage is in the middle of reading from the partition.
            broker.host.hooks.call_soon(lambda: self.on_damaged(slot, failure))

        partition.mailboxes.on_damaged = damaged
        self.partitions[slot] = partition
        broker.registry.slot_gained(slot)
        self.elsewhere.opened(partition)

    def close_slot(self, slot: int) -> None:
        """Others may serve it: nothing is said of it any more."""
        partition = self.partitions.pop(slot)
        self.elsewhere.closing(partition)
        self._broker.registry.slot_lost(slot)
        partition.close()
