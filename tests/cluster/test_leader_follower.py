"""The rules of leading and following one slot, one by one; tests/cluster/simulation.py tries all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from broker_node.cluster.copying import Copy
from broker_node.cluster.follower import Follower
from broker_node.cluster.host import Changes
from broker_node.cluster.leader import ASK_AGAIN_S, Leader
from broker_node.cluster.served import Served
from broker_node.cluster.slot_log import SlotLog, decode_rows, encode, sequence_key
from mq9.errors import Mq9Error, StorageError
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.memory_store import MemoryStore
from mq9.storage.records import seal
from mq9.testing.broker import InProcessBroker
from mq9.testing.clock import ManualClock, ManualLoop
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import peer_pb2 as peer

SLOT = 7
KEYS = [SLOT.to_bytes(2) + bytes(6) + number.to_bytes(9) for number in range(100)]
DAMAGE = StorageError("DATA_DAMAGED", "a row")
INCARNATIONS = {"a": 1, "b": 2, "c": 3}


class Here:
    """The `Host` of one node: a disk, and what was said and asked for."""

    def __init__(self, name: str) -> None:
        self.node = name
        self.incarnation = INCARNATIONS[name]
        self.store: Store = MemoryStore()
        self.clock = ManualClock()
        self.loop = ManualLoop(self.clock)
        call_soon = self.loop.call_soon
        self.commit = GroupCommit(self.store, self.clock, call_soon=call_soon, call_soon_threadsafe=call_soon, mode="inline")
        self.commit.before_seal = self._before_seal
        self.sent: list[tuple[str, str, Any]] = []
        self.asked: list[list[str]] = []
        self.newer: list[Leader] = []
        self.damages: list[Mq9Error] = []
        self.links = dict(INCARNATIONS)
        self.wanted = 2
        self._dirty: list[Leader] = []

    def send(self, node: str, kind: str, message: Message) -> bool:
        self.sent.append((node, kind, message))
        return True

    def linked(self, node: str) -> int:
        return self.links.get(node, 0)

    def known(self, node: str) -> int:
        return INCARNATIONS[node]

    def now_s(self) -> float:
        return self.clock.monotonic_s()

    def min_in_sync(self) -> int:
        return self.wanted

    def may_copy(self, node: str) -> bool:
        return True

    def dirty(self, leader: Leader) -> None:
        self.commit.then(self._durable)
        self._dirty.append(leader)

    def _before_seal(self) -> None:
        for leader in self._dirty:
            leader.seal(self.commit.batch)

    def _durable(self, failure: Mq9Error | None) -> None:
        dirty, self._dirty = self._dirty, []
        for leader in dirty:
            leader.local_durable(leader.log.last)

    def ask_isr(self, leader: Leader, change: meta.IsrChange) -> None:
        self.asked.append(list(change.isr))

    def may_serve(self, leader: Leader) -> bool:
        return True

    def must_not_serve(self, leader: Leader) -> None: ...

    def cannot_commit(self, leader: Leader) -> None: ...

    def deposed(self, leader: Leader) -> None:
        self.newer.append(leader)

    def damaged(self, slot: int, failure: Mq9Error) -> None:
        self.damages.append(failure)

    def pending_changed(self, change: int) -> None: ...

    def floors_changed(self, epoch: int, changes: Changes) -> None: ...


class Group:
    """A leader, a, and its followers, b and c. What they say to each other waits until `carry`."""

    def __init__(self, isr: str = "abc") -> None:
        self.hosts = {name: Here(name) for name in INCARNATIONS}
        self.view = meta.Slot(slot=SLOT, epoch=1, ver=1, primary="a", replicas="abc", isr=isr)
        self.leader = Leader(self.hosts["a"], self.view, SlotLog(self.hosts["a"].store, SLOT))
        self.followers = {name: Follower(self.hosts[name], SlotLog(self.hosts[name].store, SLOT), 0) for name in "bc"}
        self.done: list[bytes] = []
        self.leader.begin()
        self.run()

    def run(self) -> None:
        for host in self.hosts.values():
            host.loop.run()

    def write(self, key: bytes) -> None:
        """One entry, on the leader's disk."""
        self.leader.commit.batch.put(Table.MESSAGE, key, seal(key, b"x"))
        self.leader.commit.then(self._written, key)
        self.run()

    def _written(self, failure: Mq9Error | None, key: bytes) -> None:
        assert failure is None
        self.done.append(key)

    def carry(self, *names: str, change: Callable[[peer.AppendAck], None] = lambda ack: None) -> None:
        """Have what was said to these followers, and what they say, arrive. `change` may falsify that."""
        moved = True
        while moved:
            moved = False
            host = self.hosts["a"]
            for node, kind, message in [each for each in host.sent if each[0] in names]:
                moved = True
                take = self.followers[node].append if kind == "appends" else self.followers[node].copy
                take("a", message)
            host.sent = [each for each in host.sent if each[0] not in names]
            self.run()
            for name in names:
                acks, self.hosts[name].sent = self.hosts[name].sent, []
                for _, _, ack in acks:
                    change(ack)
                    self.leader.answered(name, ack)
                self.run()

    def see(self, isr: str) -> None:
        """The meta service says who is in sync."""
        view = meta.Slot()
        view.CopyFrom(self.view)
        view.ver += 1
        del view.isr[:]
        view.isr.extend(isr)
        self.view = view
        self.leader.view_changed(view)


# --- Leading ----------------------------------------------------------------------------------------------------


def test_an_entry_is_committed_when_all_in_sync_have_it() -> None:
    group = Group()
    group.carry("b", "c")
    group.write(KEYS[0])
    group.carry("b")
    assert group.done == []
    group.carry("c")
    assert group.done == [KEYS[0]]
    assert [group.hosts[name].store.get(Table.MESSAGE, KEYS[0]) for name in "abc"] == [seal(KEYS[0], b"x")] * 3


def test_nothing_is_committed_by_fewer_than_there_must_be() -> None:
    group = Group(isr="a")
    group.write(KEYS[0])
    assert (group.done, group.leader.committed) == ([], 0)
    group.carry("b")
    assert group.done == [], "it has it, and is not in sync yet"
    group.see("ab")
    assert group.done == [KEYS[0]]


def test_a_replica_is_admitted_when_it_has_all_that_may_be_committed() -> None:
    group = Group(isr="ab")
    group.carry("b")
    for key in KEYS[:3]:
        group.write(key)
    group.carry("b")
    assert group.leader.high == group.leader.log.last > 1
    held: list[peer.AppendAck] = []

    def late(ack: peer.AppendAck) -> None:
        """It says that it has the first entry of the epoch, and no more yet."""
        if ack.result == peer.AppendAck.ACCEPTED:
            held.append(peer.AppendAck.FromString(ack.SerializeToString()))
            ack.offset = group.leader.start

    group.carry("c", change=late)
    assert group.leader.replicas["c"].acked == group.leader.start
    assert group.hosts["a"].asked == []
    group.leader.tick()
    assert group.hosts["a"].asked == []
    group.leader.answered("c", held[-1])
    assert group.hosts["a"].asked == [["a", "b", "c"]]


@pytest.mark.parametrize("field", ["incarnation", "epoch"])
@pytest.mark.parametrize("by", [-1, 1])
def test_what_was_acknowledged_in_another_process_or_epoch_does_not_count(field: str, by: int) -> None:
    group = Group(isr="ab")
    group.carry("b")
    group.write(KEYS[0])
    group.carry("b", change=lambda ack: setattr(ack, field, getattr(ack, field) + by))
    assert group.done == []
    assert group.hosts["a"].newer == []


def test_a_copy_of_what_is_damaged_is_not_sent() -> None:
    host = Here("a")
    batch = Batch()
    for key in KEYS[:3]:
        batch.put(Table.MESSAGE, key, seal(key, b"x"))
    host.store.commit(batch)
    rows = decode_rows(Copy(1, SLOT, 1, host.store, 0).next_part().rows)
    assert list(rows[Table.MESSAGE]) == KEYS[:3]
    batch = Batch()
    batch.put(Table.MESSAGE, KEYS[1], seal(KEYS[1], b"x")[:-1] + b"y")
    host.store.commit(batch)
    with pytest.raises(Mq9Error, match="fails its checksum"):
        Copy(1, SLOT, 1, host.store, 0).next_part()


def test_a_leader_whose_rows_are_damaged_says_so_and_brings_nobody_up() -> None:
    group = Group(isr="ab")
    group.carry("b")
    group.write(KEYS[0])
    batch = Batch()
    batch.put(Table.MESSAGE, KEYS[0], b"damaged")
    group.hosts["a"].store.commit(batch)
    group.carry("c")
    assert group.hosts["a"].damages
    assert group.hosts["c"].store.get(Table.MESSAGE, KEYS[0]) is None


def test_a_member_that_needs_a_copy_leaves_the_in_sync_set_before_what_it_has_is_taken_away() -> None:
    """It counted as one who has everything while it had nothing: with the leader's disk all was lost."""
    group = Group()
    group.carry("b", "c")
    group.write(KEYS[0])
    group.carry("b", "c")
    group.followers["b"].spoil()
    group.run()
    group.write(KEYS[1])
    group.carry("b", "c")
    assert group.hosts["a"].asked == [["a", "c"]]
    assert group.hosts["b"].store.get(Table.MESSAGE, KEYS[0]) is not None
    view = meta.Slot()
    view.CopyFrom(group.view)
    view.ver, view.isr[:] = 2, ["a", "c"]
    group.leader.view_changed(view)
    group.carry("b", "c")
    assert group.done == KEYS[:2]
    assert group.hosts["b"].store.get(Table.MESSAGE, KEYS[1]) is not None
    group.hosts["a"].clock.advance(ASK_AGAIN_S)
    group.write(KEYS[2])
    group.carry("b", "c")
    assert group.hosts["a"].asked[-1] == ["a", "b", "c"]


# --- Serving ----------------------------------------------------------------------------------------------------


class Serving(Served):
    """Remembers what it gave up."""

    def __init__(self, group: Group) -> None:
        self.node = InProcessBroker(store=MemoryStore())
        super().__init__(self.node.broker)
        self.leaders = {SLOT: group.leader}
        self.given_up: list[int] = []
        self.on_damaged = lambda slot, failure: self.given_up.append(slot)


def test_a_damaged_slot_is_given_up_once_another_in_sync_has_put_down_something_of_the_epoch() -> None:
    """A member that gave it up for damage itself is in the set for some time, too: it has put down nothing since."""
    group = Group(isr="ab")
    served = Serving(group)
    served.met(SLOT, DAMAGE)
    assert served.given_up == []
    served.node.loop.run()
    assert served.given_up == [], "nobody has said anything"
    group.carry("c")
    served.mend()
    assert served.given_up == [], "it is not in sync"
    group.carry("b")
    served.mend()
    assert served.given_up == [SLOT]
    served.leaders = {}
    served.mend()
    assert (served.given_up, served.damaged) == ([SLOT], {})


def test_a_disk_that_fails_is_no_damage_to_be_repaired() -> None:
    group = Group(isr="ab")
    group.carry("b")
    served = Serving(group)
    served.met(SLOT, StorageError("STORAGE_FAILED", "the disk"))
    served.node.loop.run()
    assert served.given_up == []


def test_a_slot_that_cannot_be_opened_is_given_up() -> None:
    group = Group(isr="ab")
    group.carry("b")
    served = Serving(group)
    batch = Batch()
    batch.put(Table.META, sequence_key(SLOT), b"damaged")
    served.node.broker.store.commit(batch)
    served.open(SLOT, group.leader.commit)
    assert served.partitions == {}
    served.node.loop.run()
    assert served.given_up == [SLOT]
    served.close_slot(SLOT)
    assert served.damaged == {}


# --- Following --------------------------------------------------------------------------------------------------


def following() -> tuple[Here, Follower]:
    """A follower that has one entry, of epoch 5."""
    host = Here("b")
    follower = Follower(host, SlotLog(host.store, SLOT), 5)
    first = peer.Append(slot=SLOT, epoch=5, previous=0, offset=1)
    first.rows = encode({int(Table.MESSAGE): {KEYS[0]: seal(KEYS[0], b"x")}, int(Table.META): {sequence_key(SLOT): b"1"}})
    follower.append("a", first)
    host.loop.run()
    assert said(host) == [(peer.AppendAck.ACCEPTED, 5)]
    return host, follower


def said(host: Here) -> list[tuple[int, int]]:
    """Results and epochs of what was answered since."""
    sent, host.sent = host.sent, []
    return [(ack.result, ack.epoch) for _, _, ack in sent]


def keys_of(store: Store) -> list[tuple[str, bytes]]:
    return [(table.name, key) for table in Table for key in store.keys(table, b"", b"\xff" * 40, 100)]


def rows_of(host: Here) -> list[bytes]:
    return host.store.keys(Table.MESSAGE, b"", b"\xff" * 20, 100)


def test_an_entry_of_an_older_epoch_is_refused() -> None:
    host, follower = following()
    stale = peer.Append(slot=SLOT, epoch=4, previous=1, offset=2, rows=encode({int(Table.MESSAGE): {KEYS[1]: b"stale"}}))
    follower.append("c", stale)
    host.loop.run()
    assert said(host) == [(peer.AppendAck.STALE_EPOCH, 5)]
    assert (follower.log.last, rows_of(host)) == (1, [KEYS[0]])


def test_a_copy_of_an_older_epoch_is_refused() -> None:
    host, follower = following()
    rows = encode({int(Table.MESSAGE): {KEYS[1]: b"stale"}})
    follower.copy("c", peer.CopyRows(slot=SLOT, epoch=4, copy=1, first=True, last=True, rows=rows))
    host.loop.run()
    assert said(host) == [(peer.AppendAck.STALE_EPOCH, 5)]
    assert (follower.log.copying, rows_of(host)) == (False, [KEYS[0]])


def test_what_is_spoilt_is_not_relied_on_after_a_restart_either() -> None:
    host, follower = following()
    follower.spoil()
    host.loop.run()
    again = Follower(host, SlotLog(host.store, SLOT), 5)
    for each in (follower, again):
        assert each.log.copying
        probe = peer.Append(slot=SLOT, epoch=5, previous=1, offset=1, probe=1)
        probe.history.add(epoch=5, start=1)
        each.append("a", probe)
        host.loop.run()
        ((_, _, answer),) = host.sent
        assert answer.position.copying
        assert answer.offset == 0
        host.sent.clear()
        each.append("a", peer.Append(slot=SLOT, epoch=5, previous=1, offset=2))
        host.loop.run()
        assert said(host) == [(peer.AppendAck.MISMATCH, 5)]


def test_a_slot_that_has_moved_leaves_nothing_behind() -> None:
    host, follower = following()
    gone: list[bool] = []
    follower.wipe(lambda: gone.append(True), forget=True)
    host.loop.run()
    assert gone == [True]
    assert keys_of(host.store) == keys_of(MemoryStore())
    assert SlotLog(host.store, SLOT).is_empty


def test_a_slot_that_is_wiped_for_a_copy_says_so_until_the_copy_is_whole() -> None:
    host, follower = following()
    follower.wipe(lambda: None)
    host.loop.run()
    assert rows_of(host) == []
    assert SlotLog(host.store, SLOT).copying
