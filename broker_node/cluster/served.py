"""The slots that a node of a cluster serves: a partition for each, for as long as the replicator says so.

Whatever meets damage in a slot tells it here. Once another member of the in-sync set is known to have everything, the slot is
given up: that one leads it and sends a copy. Until then what can be read is better than nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from broker_node.cluster.elsewhere import Elsewhere
from broker_node.partition import Partition
from mq9.errors import StorageError

if TYPE_CHECKING:
    from broker_node.broker import Broker
    from broker_node.cluster.leader import Leader
    from broker_node.cluster.slot_commit import SlotCommit

log = logging.getLogger("mq9.cluster")


class Served:
    """The `Partitions` of the replicator. `leaders` are its, `on_damaged` gives a slot up."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.elsewhere: Elsewhere
        self.leaders: Mapping[int, Leader] = {}
        self.on_damaged: Callable[[int, StorageError], None]
        self.partitions: dict[int, Partition] = {}
        self.damaged: dict[int, StorageError] = {}  # slots led here that cannot be read everywhere

    def open(self, slot: int, commit: SlotCommit) -> None:
        """Everything the slot has is committed: take it up. Commands for it are let in from here on, if it can be read."""
        broker = self._broker
        try:
            partition = Partition(broker.host, broker.store, commit, slot=slot, slots=broker.cluster.slots)
        except StorageError as failure:
            self.met(slot, failure)
            return
        partition.watch_damage(partial(self.met, slot), partial(self.is_whole_elsewhere, slot))
        self.partitions[slot] = partition
        try:
            broker.registry.slot_gained(slot, partial(self.met, slot))
        except StorageError as failure:
            self.met(slot, failure)
        if slot in self.damaged and self.is_whole_elsewhere(slot):  # nobody is told that an agent is not there
            del self.partitions[slot]
            broker.registry.slot_lost(slot)
            partition.close()
            return
        self.elsewhere.opened(partition)

    def close_slot(self, slot: int) -> None:
        """Others may serve it: nothing is said of it any more."""
        self.damaged.pop(slot, None)
        partition = self.partitions.pop(slot, None)
        if partition is None:  # it could not be opened
            return
        self.elsewhere.closing(partition)
        self._broker.registry.slot_lost(slot)
        partition.close()

    # --- Damage ---------------------------------------------------------------------------------------------------

    def met(self, slot: int, failure: StorageError) -> None:
        """Something of a slot that is led here cannot be read."""
        if failure.code != "DATA_DAMAGED" or slot in self.damaged:
            return
        self.damaged[slot] = failure
        if not self.is_whole_elsewhere(slot):
            log.error("slot %d is damaged here (%s), and no other broker is known to have it whole", slot, failure.text)
        # Not at once: whoever meets the damage is in the middle of reading from the partition.
        self._broker.host.hooks.call_soon(self.mend)

    def mend(self) -> None:
        """Give up the slots with damage that another has whole. To be called again and again: it may have been away."""
        for slot, failure in list(self.damaged.items()):
            if slot not in self.leaders:
                del self.damaged[slot]
            elif self.is_whole_elsewhere(slot):
                self.on_damaged(slot, failure)

    def is_whole_elsewhere(self, slot: int) -> bool:
        """Whether a member of the in-sync set has put down something of this epoch: then it has everything before it, too.

        One that gave the slot up because of damage is in the set as well until it is removed, and has put down nothing.
        """
        leader = self.leaders.get(slot)
        return leader is not None and any(
            replica.node in leader.view.isr and replica.acked >= leader.start for replica in leader.replicas.values()
        )
