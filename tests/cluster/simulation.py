"""A cluster in one thread, with faked time, links and meta service, driven by a seed.

What is real: the replicator with its leaders, followers, logs and copies, the group commit, the store contract, and the rules
by which the meta service changes brokers and slots. What is faked: the clock, streams (in order, with delays, cut at any time
with what is on them), the meta service's own consensus (one view, changed by its rules), and processes (a crash keeps the
store and nothing else; a wiped disk not even that).

    python -m tests.cluster.simulation --runs 1000 [--seed 1] [--steps 400]
"""

from __future__ import annotations

import argparse
import heapq
import logging
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.message import Message

from broker_node.cluster import copying, leader, slot_log
from broker_node.cluster.leader import Leader
from broker_node.cluster.replicator import TICK_S, Replicator
from broker_node.cluster.slot_commit import SlotCommit
from broker_node.cluster.slot_log import SLOT_TABLES, slot_range
from meta_service import rules
from mq9.errors import Mq9Error, StorageError
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Table
from mq9.storage.layout import message_key, pack_u64, unpack_u64
from mq9.storage.memory_store import MemoryStore
from mq9.storage.records import seal, unseal
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as raft

SLOTS = 3
NODES = ("a", "b", "c", "d")
REPLICAS = 3
MIN_IN_SYNC = 2
HEARTBEAT_S, LEASE_S, SESSION_S = 0.5, 2.5, 4.0
TIER = 2
ALL = 1 << 40


class Broken(AssertionError):
    """An invariant does not hold."""


class Clock:
    """The simulation's time, for the code under test."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic_s(self) -> float:
        return self._world.now_s

    def wall_ms(self) -> int:
        return round(self._world.now_s * 1000)


class Link:
    """One end of a stream; `is_crowded` now and then."""

    def __init__(self, world: World, owner: Node, node: str, incarnation: int) -> None:
        self.world = world
        self.owner = owner
        self.node = node
        self.incarnation = incarnation
        self.is_up = True
        self.is_crowded = False
        self.other: Link
        self._last_s = 0.0

    def send(self, kind: str, message: Message) -> None:
        if not self.is_up:
            return
        world = self.world
        data = message.SerializeToString()
        self._last_s = max(self._last_s, world.now_s + world.random.expovariate(200))
        world.at(self._last_s, lambda: self.other.arrive(kind, type(message).FromString(data)))

    def arrive(self, kind: str, message: Any) -> None:
        if self.is_up and self.owner.is_up:
            self.owner.take(self, kind, message)


class View:
    """What a node knows of the cluster; behind the meta service by a random time."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.incarnation = 0
        self.brokers: dict[str, meta.Broker] = {}
        self.slots: dict[int, meta.Slot] = {}
        self.config: meta.ClusterConfig | None = None
        self.lease_s = LEASE_S
        self.lease_until_s = 0.0

    def lease_holds(self) -> bool:
        return True


class Partition:
    """A slot that is served: a count in memory, as the real one keeps counts of a mailbox."""

    def __init__(self, world: World, node: Node, slot: int, commit: SlotCommit) -> None:
        self.world = world
        self.node = node
        self.slot = slot
        self.commit = commit
        self.mailbox = slot << 48 | 1
        self.key = pack_u64(self.mailbox)
        row = node.store.get(Table.STATE, self.key)
        self.count = unpack_u64(unseal(self.key, row)) if row else 0

    def write(self) -> None:
        world = self.world
        world.numbers += 1
        key = message_key(self.mailbox, TIER, world.numbers)
        self.count += 1
        world.tried[key] = self.slot
        self._commit(key, seal(key, b"x" * world.random.randrange(1, 200)), world.written)

    def remove(self, key: bytes) -> None:
        if self.node.store.get(Table.MESSAGE, key) is None or key in self.world.removing:
            return
        self.count -= 1
        self.world.removing.add(key)
        self._commit(key, None, self.world.removed)

    def _commit(self, key: bytes, value: bytes | None, done: set[bytes]) -> None:
        batch = self.commit.batch
        if value is None:
            batch.delete(Table.MESSAGE, key)
        else:
            batch.put(Table.MESSAGE, key, value)
        batch.put(Table.STATE, self.key, seal(self.key, pack_u64(self.count)))
        self.commit.then(self._done, key, done)

    def _done(self, failure: Mq9Error | None, key: bytes, done: set[bytes]) -> None:
        if failure is None:
            done.add(key)
            self.world.acknowledged(self.slot, key, is_there=done is self.world.written)


class Node:
    """A broker's process: what is in memory. `World.stores` has its disk."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_up = True
        self.store = world.stores[name]
        self.view = View(name)
        self.lag_s = 0.0  # of its watch, beyond what every message takes
        self.partitions: dict[int, Partition] = {}
        self.commit = GroupCommit(
            self.store, Clock(world), call_soon=self.call_soon, call_soon_threadsafe=self.call_soon, mode="inline"
        )
        self.replicator = Replicator(self.store, self.commit, Clock(world), self.view, self, self.ask_isr)
        self.replicator.on_given_up = lambda: world.later(lambda: world._register(self))
        self._tick()

    def call_soon(self, call: Callable[[], None]) -> object:
        self.world.at(self.world.now_s + self.world.random.expovariate(500), lambda: call() if self.is_up else None)
        return None

    def _tick(self) -> None:
        if self.is_up:
            self.replicator.tick()
            self.world.at(self.world.now_s + TICK_S, self._tick)

    # --- What the replicator asks for -----------------------------------------------------------------------------

    def open(self, slot: int, commit: SlotCommit) -> object:
        if slot in self.partitions:
            raise Broken(f"{self.name} opened slot {slot} twice")
        self.partitions[slot] = Partition(self.world, self, slot, commit)
        self.world.check_one_serves(slot)
        return self.partitions[slot]

    def close_slot(self, slot: int) -> None:
        del self.partitions[slot]

    def met(self, slot: int, failure: StorageError) -> None:
        raise Broken(f"{self.name} cannot read slot {slot}: {failure.text}")

    def ask_isr(self, asking: Leader, change: meta.IsrChange) -> None:
        request = meta.AlterIsrRequest(node=self.name, incarnation=self.view.incarnation, changes=[change])
        world = self.world

        def ask() -> None:
            if not world.reaches_meta(self.name):
                return
            result = world.command(rules.alter_isr, request)
            world.later(lambda: asking.isr_answered(change, result.slots[0]) if self.is_up else None)

        world.later(ask)

    # --- Streams --------------------------------------------------------------------------------------------------

    def take(self, link: Link, kind: str, message: Any) -> None:
        if kind == "appends":
            self.replicator.on_appends(link, [message])
        elif kind == "copies":
            self.replicator.on_copies(link, [message])
        elif kind == "acks":
            self.replicator.on_acks(link, [message])


@dataclass
class World:
    """Everything. `mend` lets a test take a rule away from the code under test."""

    seed: int
    mend: Callable[[Node], None] = lambda node: None
    now_s: float = 0.0
    calm_until_s: float = 0.0
    numbers: int = 0
    tried: dict[bytes, int] = field(default_factory=dict)
    written: set[bytes] = field(default_factory=set)
    removing: set[bytes] = field(default_factory=set)
    removed: set[bytes] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._event = 0
        self.stores = {name: MemoryStore(1 << 30) for name in NODES}
        self.disks = {name: name.encode() for name in NODES}
        self.nodes: dict[str, Node] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.cut: set[frozenset[str]] = set()  # pairs without a road, also ("a", "meta")
        self.wiped: set[str] = set()
        self.heard_s: dict[str, float] = {}
        self.view = rules.View()
        self.rev = 0
        self.command(
            rules.found, raft.Found(cluster_id=b"sim", slots=SLOTS, replication_factor=REPLICAS, min_in_sync=MIN_IN_SYNC)
        )
        for name in NODES:
            self.start(name)
        order = [[NODES[(slot + place) % len(NODES)] for place in range(REPLICAS)] for slot in range(SLOTS)]
        assign = raft.Assign()
        for slot in range(SLOTS):
            known = self.view.slots[slot]
            assign.assignments.add(slot=slot, epoch=known.epoch, ver=known.ver, replicas=order[slot])
        self.command(rules.assign, assign)
        self._fence()

    # --- Time -----------------------------------------------------------------------------------------------------

    def at(self, when_s: float, call: Callable[[], object]) -> None:
        self._event += 1
        heapq.heappush(self._events, (when_s, self._event, call))

    def later(self, call: Callable[[], object]) -> None:
        self.at(self.now_s + self.random.expovariate(50), call)

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, call = heapq.heappop(self._events)
            call()
        self.now_s = until_s

    def note(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # --- The meta service -----------------------------------------------------------------------------------------

    def command(self, rule: Callable[[rules.Change, Any], raft.CommandResult], op: Any) -> raft.CommandResult:
        """One committed command; its effects reach every node some time later."""
        self.rev += 1
        change = rules.Change(self.view, self.rev)
        try:
            result = rule(change, op)
            rules.check(change)
        except rules.Refused as refused:
            return raft.CommandResult(outcome=refused.outcome, text=str(refused))
        if change.config_after is not None:
            self.view.config = change.config_after
        self.view.brokers.update(change.brokers)
        self.view.slots.update(change.slots)
        for node in list(self.nodes.values()):
            self._tell(node, list(change.brokers.values()), list(change.slots.values()))
        return result

    def _tell(self, node: Node, brokers: Iterable[meta.Broker], slots: Iterable[meta.Slot]) -> None:
        config = self.view.config

        def told() -> None:
            if not node.is_up or not node.view.incarnation:
                return  # who is not registered watches nothing
            if not self.reaches_meta(node.name):
                self.at(self.now_s + 0.2, told)
                return
            node.view.config = config
            for broker in brokers:
                known = node.view.brokers.get(broker.id)
                if known is None or known.mod_rev < broker.mod_rev:
                    node.view.brokers[broker.id] = broker
            fresh = [slot for slot in slots if node.view.slots.get(slot.slot, meta.Slot()).ver < slot.ver]
            node.view.slots.update({slot.slot: slot for slot in fresh})
            node.replicator.view_changed(fresh)
            self._dial(node)

        self.at(self.now_s + node.lag_s + self.random.expovariate(50), told)

    def reaches_meta(self, name: str) -> bool:
        return frozenset((name, "meta")) not in self.cut

    def _fence(self) -> None:
        for name, heard_s in list(self.heard_s.items()):
            broker = self.view.brokers[name]
            if broker.state != meta.FENCED and self.now_s - heard_s > SESSION_S:
                self.note("fenced")
                self.command(rules.fence, raft.Fence(node=name, incarnation=broker.incarnation))
        self.at(self.now_s + 0.2, self._fence)

    # --- Nodes ----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        if name in self.nodes:
            return
        node = self.nodes[name] = Node(self, name)
        self.mend(node)
        self._register(node)
        self._heartbeat(node)

    def _register(self, node: Node) -> None:
        if not node.is_up:
            return
        if not self.reaches_meta(node.name):
            self.at(self.now_s + 0.3, lambda: self._register(node))
            return
        for slot in range(SLOTS):  # what an earlier session led is over
            led = node.replicator.leaders.get(slot)
            if led is not None:
                node.replicator.deposed(led)
        request = meta.RegisterRequest(
            node=node.name, disk_id=self.disks[node.name], peer_address=node.name, client_address=node.name
        )
        result = self.command(rules.register, request)
        if result.outcome != meta.OK:
            self.at(self.now_s + 0.5, lambda: self._register(node))
            return
        self.wiped.discard(node.name)
        node.view.incarnation = result.incarnation
        node.view.config = self.view.config
        node.view.brokers = dict(self.view.brokers)
        node.view.slots = dict(self.view.slots)
        self.heard_s[node.name] = self.now_s
        for key in [key for key in self.links if node.name in key]:
            self.cut_link(key)
        node.view.lease_until_s = self.now_s + LEASE_S
        node.replicator.lease_changed(holds=True)
        node.replicator.view_changed(list(self.view.slots.values()))
        self._dial(node)

    def _heartbeat(self, node: Node) -> None:
        if not node.is_up:
            return
        self.at(self.now_s + HEARTBEAT_S, lambda: self._heartbeat(node))
        if not node.view.incarnation:
            return
        if self.reaches_meta(node.name):
            broker = self.view.brokers[node.name]
            if broker.incarnation != node.view.incarnation or broker.state == meta.FENCED:
                node.view.incarnation = 0
                node.replicator.lease_changed(holds=False)
                self._register(node)
                return
            self.heard_s[node.name] = self.now_s
            if any(node.view.slots[slot].ver < known.ver for slot, known in self.view.slots.items()):
                return  # whoever is behind has no lease renewed
            had = node.view.lease_until_s > self.now_s
            node.view.lease_until_s = self.now_s + LEASE_S
            if not had:
                node.replicator.lease_changed(holds=True)
            self.at(node.view.lease_until_s, lambda: self._lease_over(node))

    def _lease_over(self, node: Node) -> None:
        if node.is_up and node.view.lease_until_s <= self.now_s:
            node.replicator.lease_changed(holds=False)

    def stop(self, name: str) -> None:
        """kill -9."""
        node = self.nodes.pop(name, None)
        if node is None:
            return
        node.is_up = False
        for key in [key for key in self.links if name in key]:
            self.cut_link(key)

    def wipe(self, name: str) -> None:
        """kill -9, and the disk is gone."""
        self.stop(name)
        self.stores[name] = MemoryStore(1 << 30)
        self.disks[name] = name.encode() + str(self.now_s).encode()
        self.wiped.add(name)

    # --- Links ----------------------------------------------------------------------------------------------------

    def _dial(self, node: Node) -> None:
        for name, other in list(self.nodes.items()):
            key = (node.name, name)
            if name == node.name or key in self.links or frozenset(key) in self.cut or not other.view.incarnation:
                continue
            ours = Link(self, node, name, other.view.incarnation)
            theirs = Link(self, other, node.name, node.view.incarnation)
            ours.other, theirs.other = theirs, ours
            self.links[key] = ours
            other.replicator.accepted(theirs)
            node.replicator.link_up(ours)

    def cut_link(self, key: tuple[str, str]) -> None:
        link = self.links.pop(key, None)
        if link is None:
            return
        link.is_up = link.other.is_up = False
        if link.owner.is_up:
            link.owner.replicator.link_down(link)
        if link.other.owner.is_up:
            link.other.owner.replicator.accepted_down(link.other)
        if link.owner.is_up:
            self.at(self.now_s + self.random.uniform(0.05, 0.5), lambda: self._dial(link.owner) if link.owner.is_up else None)

    def partition(self, one: str, other: str) -> None:
        self.cut.add(frozenset((one, other)))
        self.cut_link((one, other))
        self.cut_link((other, one))

    def heal(self) -> None:
        self.cut.clear()
        for link in self.links.values():
            link.is_crowded = link.other.is_crowded = False
        for node in list(self.nodes.values()):
            self._dial(node)

    # --- What happens ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Something at random."""
        chance = self.random.random()
        name = self.random.choice(NODES)
        if chance < 0.72:
            self._client()
        elif self.wiped or self.now_s < self.calm_until_s:
            self.start(self.random.choice(NODES))  # one lost disk at a time, and nothing else meanwhile, is what is promised
        elif chance < 0.76:
            self.stop(name)
        elif chance < 0.86:
            self.start(self.random.choice(NODES))
        elif chance < 0.885:
            self.partition(name, self.random.choice([*NODES, "meta"]))
        elif chance < 0.89 and name in self.nodes:
            self.nodes[name].lag_s = self.random.choice((0, 0.5, 1.5))
        elif chance < 0.93:
            self.heal()
        elif chance < 0.96 and self.links:
            self.cut_link(self.random.choice(sorted(self.links)))
        elif chance < 0.975 and self.links:
            link = self.links[self.random.choice(sorted(self.links))]
            link.is_crowded = not link.is_crowded
        elif chance < 0.98:
            self._wipe_one(name)
        else:
            self._move()

    def _client(self) -> None:
        slot = self.random.randrange(SLOTS)
        for node in self.nodes.values():
            partition = node.partitions.get(slot)
            if partition is None:
                continue
            for _ in range(self.random.randrange(1, 6)):
                if self.random.random() < 0.25 and self.written:
                    mine = [key for key in self.written if self.tried[key] == slot]
                    if mine:
                        partition.remove(self.random.choice(sorted(mine)))
                else:
                    partition.write()

    def _wipe_one(self, name: str) -> None:
        """A disk is lost only while the others are there and have everything."""
        if self.wiped or any(len(slot.isr) < REPLICAS for slot in self.view.slots.values() if name in slot.isr):
            return
        if len(self.nodes) < len(NODES):
            return
        self.note("wiped")
        self.heal()
        self.calm_until_s = self.now_s + 3 * SESSION_S
        self.wipe(name)

    def _move(self) -> None:
        slot = self.view.slots[self.random.randrange(SLOTS)]
        if slot.adding or slot.removing:
            rule: Any = rules.finish_move if self.random.random() < 0.7 else rules.cancel_move
            op: Any = meta.FinishMove if rule is rules.finish_move else meta.CancelMove
            result = self.command(rule, op(slot=slot.slot, epoch=slot.epoch, ver=slot.ver))
            if result.outcome == meta.OK:
                self.note("moves ended")
            return
        new = [name for name in NODES if name not in slot.replicas]
        old = slot.primary if slot.primary and self.random.random() < 0.5 else self.random.choice(list(slot.replicas))
        start = meta.StartMove(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, add=new, remove=[old])
        self.command(rules.start_move, start)

    # --- What must hold -------------------------------------------------------------------------------------------

    def check_one_serves(self, slot: int) -> None:
        """No two nodes serve a slot at once."""
        serving = [node.name for node in self.nodes.values() if slot in node.partitions]
        if len(serving) > 1:
            raise Broken(f"slot {slot} is served by {serving}")

    def acknowledged(self, slot: int, key: bytes, *, is_there: bool) -> None:
        """An acknowledged change is on the disk of every member of the in-sync set, and there are enough of them."""
        self.note("acknowledged")
        isr = [name for name in self.view.slots[slot].isr if name not in self.wiped]
        for name in isr:
            if (self.stores[name].get(Table.MESSAGE, key) is not None) is not (is_there and key not in self.removing):
                if is_there and key in self.removing:
                    continue
                raise Broken(f"{key.hex()} of slot {slot} was acknowledged and is not on {name} of {isr}")
        there = [name for name, store in self.stores.items() if store.get(Table.MESSAGE, key) is not None]
        if is_there and key not in self.removing and len(there) + len(self.wiped) < MIN_IN_SYNC:
            raise Broken(f"{key.hex()} of slot {slot} was acknowledged and is on {there} only")

    def settle(self) -> None:
        """Everything comes back: then every slot must be served, and every replica have the same."""
        self.heal()
        for name in NODES:
            self.start(name)
            self.nodes[name].lag_s = 0
        for _ in range(60):
            self.run(self.now_s + 1)
            for slot in self.view.slots.values():
                if slot.adding or slot.removing:
                    self.command(rules.finish_move, meta.FinishMove(slot=slot.slot, epoch=slot.epoch, ver=slot.ver))
            if self._is_quiet():
                break
        self.run(self.now_s + 3)
        for number in range(SLOTS):
            self._check_slot(number)

    def _is_quiet(self) -> bool:
        for name, broker in self.view.brokers.items():
            if broker.state == meta.FENCED or broker.incarnation != self.nodes[name].view.incarnation:
                return False  # the in-sync sets may still have a session of it that is about to end
        for slot in self.view.slots.values():
            led = self.nodes[slot.primary].replicator.leaders.get(slot.slot) if slot.primary else None
            if led is None or not led.is_serving or len(slot.isr) < len(slot.replicas) or led.pending or slot.adding:
                return False
        return True

    def _check_slot(self, slot: int) -> None:
        view = self.view.slots[slot]
        if not any(slot in node.partitions for node in self.nodes.values()):
            raise Broken(f"slot {slot} is not served at the end: {view}")
        contents = {name: self._content(name, slot) for name in view.replicas}
        if len(view.isr) < len(view.replicas):
            raise Broken(f"slot {slot} has {list(view.isr)} in sync of {list(view.replicas)} at the end")
        first = contents[view.primary]
        for name, content in contents.items():
            if content != first:
                raise Broken(f"slot {slot}: {name} differs from {view.primary} in {sorted(content.items() ^ first.items())[:4]}")
        keys = {key for table, key in first if table == Table.MESSAGE}
        lost = [key for key in self.written if self.tried[key] == slot and key not in keys and key not in self.removing]
        if lost:
            raise Broken(f"slot {slot} lost {len(lost)} acknowledged writes: {min(lost).hex()}")
        risen = [key for key in self.removed if key in keys]
        if risen:
            raise Broken(f"slot {slot}: {len(risen)} acknowledged removals came back")
        key = pack_u64(slot << 48 | 1)
        state = first.get((Table.STATE, key))
        count = unpack_u64(unseal(key, state)) if state else 0
        if count != len(keys):
            raise Broken(f"slot {slot} counts {count} and has {len(keys)}")
        for name in NODES:
            if name not in view.replicas and self._content(name, slot):
                raise Broken(f"slot {slot}: {name} still has rows of it")

    def _content(self, name: str, slot: int) -> dict[tuple[int, bytes], bytes]:
        store = self.stores[name]
        return {(table, key): value for table in SLOT_TABLES for key, value in store.scan(table, *slot_range(slot), ALL)}


class Strict(logging.Handler):
    """A bug that the code under test caught and logged breaks the run."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            raise Broken(record.getMessage()) from record.exc_info[1]


@contextmanager
def narrow(seed: int) -> Iterator[None]:
    """How a schedule runs: strictly, and in two of three with short logs and small parts, so that copies are made."""
    with pytest.MonkeyPatch.context() as patch:
        if seed % 3:
            patch.setattr(slot_log, "SLOT_LOG_BYTES_MAX", 1500)
            patch.setattr(leader, "REPAIR_BYTES_MAX", 20_000 // (seed % 3))
            patch.setattr(copying, "COPY_ROWS", 5)
            patch.setattr(copying, "COPY_BYTES", 700)
        logger, strict = logging.getLogger("mq9"), Strict()
        patch.setattr(logger, "propagate", False)
        logger.addHandler(strict)
        try:
            yield
        finally:
            logger.removeHandler(strict)


def run(seed: int, steps: int = 300, mend: Callable[[Node], None] = lambda node: None) -> World:
    """One schedule. Raises Broken."""
    with narrow(seed):
        return _run(World(seed, mend), steps)


def _run(world: World, steps: int) -> World:
    world.run(2)
    for _ in range(steps):
        world.step()
        world.run(world.now_s + world.random.expovariate(8))
    world.settle()
    return world


def main() -> int:
    """Many schedules."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    totals: dict[str, int] = {}
    for seed in range(options.seed, options.seed + options.runs):
        try:
            world = run(seed, options.steps)
        except Exception as failure:
            print(f"seed {seed}: {failure}", file=sys.stderr)  # noqa: T201  # a command line tool
            raise
        for what, count in world.counts.items():
            totals[what] = totals.get(what, 0) + count
    print(f"{options.runs} schedules of {options.steps} steps: nothing lost; {totals}")  # noqa: T201  # a command line tool
    return 0


if __name__ == "__main__":
    sys.exit(main())
