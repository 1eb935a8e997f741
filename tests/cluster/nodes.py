"""Nodes of a cluster in this process, without replication: brokers, the mailboxes of a cluster, and links in memory.

All nodes share one store, as if every one of them were a replica that has everything; who leads which slot is what the test
says. Loop and clock are those of all nodes and are turned by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from broker_node.broker import Broker
from broker_node.cluster.interface import Cluster
from broker_node.cluster.mailboxes import ClusterMailboxes
from broker_node.partition import Partition
from mq9.settings import Settings
from mq9.storage.commit import GroupCommit
from mq9.storage.layout import slot_of
from mq9.storage.memory_store import MemoryStore
from mq9.testing.broker import InProcessBroker
from mq9.testing.clock import ManualClock, ManualLoop
from mq9.v1 import meta_pb2 as meta
from mq9.v1.peer_pb2 import PeerBatch
from tests.cluster.memory_links import MemoryLink, MemoryLinks, MemoryNetwork

SLOTS = 8


class Node(InProcessBroker):
    """One node. What it knows of the cluster is what it was told last; its commits go to the store at once."""

    def __init__(self, cluster: Cluster3, name: str, **settings: object) -> None:
        self.cluster = cluster
        self.node = name
        self.clock = cluster.clock
        self.loop = cluster.loop
        self.slots = SLOTS
        self.leaders: dict[int, tuple[str, int]] = {}
        self.lease = True
        self.commits: dict[int, GroupCommit] = {}
        self.links: MemoryLinks = cluster.network.join(name)
        self._clients = 0
        self.settings = Settings(storage="memory", commit="inline", disk_reserve=0, embedding="none", **settings)  # type: ignore[arg-type]
        self.served: dict[int, Partition] = {}
        self.mailboxes: ClusterMailboxes
        self.broker = Broker(self.settings, self.clock, self.loop, cluster.store, self._made)
        self.links.on_batch = self._on_batch
        self.links.on_up = self.mailboxes.link_up
        self.links.on_down = self.links.on_accepted_down = self.mailboxes.link_down
        self.broker.start()

    def _made(self, broker: Broker) -> Cluster:
        self.broker = broker
        self.mailboxes = ClusterMailboxes(self)
        return _AsCluster(self)

    def _on_batch(self, link: MemoryLink, batch: PeerBatch) -> None:
        for kind, handle in self.mailboxes.handlers.items():
            envelopes = getattr(batch, kind)
            if envelopes:
                handle(link, envelopes)

    # What the mailboxes of a cluster ask of their node.

    def partition(self, slot: int) -> Partition | None:
        return self.served.get(slot) if self.lease else None

    def partitions(self) -> Collection[Partition]:
        return self.served.values()

    def leader(self, slot: int) -> str:
        return self.leaders.get(slot, ("", 0))[0]

    def epoch(self, slot: int) -> int:
        return self.leaders.get(slot, ("", 0))[1]

    def link(self, node: str) -> MemoryLink | None:
        return self.links.link(node)

    def may_serve(self) -> bool:
        return self.lease

    # What a test has happen.

    def hear(self, slots: Iterable[int]) -> None:
        """Learn who leads some slots now."""
        for slot in slots:
            self.leaders[slot] = self.cluster.leaders[slot]
        self.mailboxes.view_changed([meta.Slot(slot=slot) for slot in slots])

    def open(self, slot: int) -> None:
        """Serve a slot."""
        commit = self.commits[slot] = GroupCommit(
            self.cluster.store, self.clock, call_soon=self.loop.call_soon, call_soon_threadsafe=self.loop.call_soon, mode="inline"
        )
        partition = self.served[slot] = Partition(self.broker.host, self.cluster.store, commit, slot=slot, slots=SLOTS)
        self.mailboxes.opened(partition)

    def shut(self, slot: int) -> None:
        """Serve a slot no more; what was staged goes to the store, as if it had been replicated in time."""
        partition = self.served.pop(slot)
        self.mailboxes.closing(partition)
        partition.close()
        self.commits.pop(slot).close()


class _AsCluster:
    """The `Cluster` of a node's broker: what is not the node's is of its mailboxes."""

    whole = None

    def __init__(self, node: Node) -> None:
        self._node = node
        self.slots = SLOTS
        self.staged_bytes = 0
        self.is_crowded = False
        self.agents = lambda registry: registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node if name in ("partition", "partitions") else self._node.mailboxes, name)

    def close(self) -> None:
        self._node.mailboxes.close()
        for slot in list(self._node.served):
            self._node.shut(slot)


class Cluster3:
    """Some nodes. Slot n is led by the node number n, round and round."""

    def __init__(self, names: str = "ab", **settings: object) -> None:
        self.clock = ManualClock()
        self.loop = ManualLoop(self.clock)
        self.store = MemoryStore()
        self.network = MemoryNetwork(self.loop.call_soon)
        self.leaders = {slot: (names[slot % len(names)], 1) for slot in range(SLOTS)}
        self.nodes = {name: Node(self, name, **settings) for name in names}
        for node in self.nodes.values():
            node.hear(range(SLOTS))
        for slot, (name, _) in self.leaders.items():
            self.nodes[name].open(slot)
        self.network.connect_all()
        self.loop.run()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def run(self) -> None:
        """Turn the loop until nothing is left to do now."""
        self.loop.run()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.advance(seconds)

    def address_at(self, name: str, prefix: str = "box") -> str:
        """An address whose slot that node leads."""
        return next(
            address
            for address in (f"{prefix}{number}" for number in range(1000))
            if self.leaders[slot_of(address.encode(), SLOTS)][0] == name
        )

    def slot(self, address: str) -> int:
        return slot_of(address.encode(), SLOTS)

    def take_away(self, slot: int) -> None:
        """Its leader serves a slot no more, and nobody does yet."""
        name, epoch = self.leaders[slot]
        self.leaders[slot] = ("", epoch + 1)
        self.nodes[name].shut(slot)

    def give(self, slot: int, name: str) -> None:
        """A node serves a slot from now on; everybody is told, it first."""
        self.leaders[slot] = (name, self.leaders[slot][1] + 1)
        self.nodes[name].hear([slot])
        self.nodes[name].open(slot)
        self.tell(slot)

    def tell(self, slot: int) -> None:
        """Everybody learns who leads a slot."""
        for node in self.nodes.values():
            node.hear([slot])
        self.run()

    def move(self, slot: int, name: str) -> None:
        """A slot changes its leader."""
        self.take_away(slot)
        self.give(slot, name)

    def close(self) -> None:
        """Stop all nodes."""
        for node in self.nodes.values():
            node.close()
