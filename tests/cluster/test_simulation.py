"""Thousands of schedules of crashes, cuts, lost disks, late watches and moves; and six rules of replication taken away, each of
which must be noticed.

All of it, at length: `python -m tests.cluster.simulation --runs 10000`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker_node.cluster.copying import Copy
from broker_node.cluster.follower import Follower
from broker_node.cluster.leader import Leader, Replica
from broker_node.cluster.replicator import Replicator
from broker_node.cluster.slot_log import decode_rows
from meta_service import rules
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import peer_pb2 as peer
from tests.cluster import simulation

SCHEDULES = 2000
PARTS = 8
LONG_SCHEDULES = 5000
MUTANT_SCHEDULES = 150


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_loses_or_forks_anything(part: int) -> None:
    for seed in range(part * SCHEDULES // PARTS, (part + 1) * SCHEDULES // PARTS):
        simulation.run(seed)


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_no_schedule_of_many_loses_or_forks_anything(part: int) -> None:
    for seed in range(10_000 + part * LONG_SCHEDULES // 10, 10_000 + (part + 1) * LONG_SCHEDULES // 10):
        simulation.run(seed, steps=600)


def test_the_schedules_meet_what_they_are_about() -> None:
    """Elections, lost disks, moves and copies, all in the first schedules; else those prove little."""
    counts: dict[str, int] = {}
    copies = 0
    begin: Any = Copy.__init__

    def count(self: Copy, *arguments: Any) -> None:
        nonlocal copies
        copies += 1
        begin(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Copy, "__init__", count)
        for seed in range(40):
            for what, number in simulation.run(seed).counts.items():
                counts[what] = counts.get(what, 0) + number
    assert min(counts["fenced"], counts["wiped"], counts["moves ended"], copies) > 5
    assert counts["acknowledged"] > 1000


@pytest.mark.parametrize("began", [True, False], ids=["serving", "opening"])
def test_who_cannot_be_heard_gives_up_again_and_again(began: bool) -> None:
    """Also one that was never heard in its epoch: whoever led before may have given up for its sake."""
    world = simulation.World(1)
    world.run(3 if began else 0)
    node = world.nodes[world.view.slots[0].primary]
    given_up: list[float] = []
    node.replicator.on_given_up = lambda: given_up.append(world.now_s)
    for other in simulation.NODES:
        if other != node.name:
            world.partition(node.name, other)
    world.run(world.now_s + 1)
    assert (0 in node.partitions) is began
    if began:
        node.partitions[0].write()
    world.run(100)
    assert len(given_up) > 2, given_up


# --- A watch that is late ----------------------------------------------------------------------------------------------


def world_with_mail() -> tuple[simulation.World, str]:
    """A slot with something in it, and the name of the broker that is no replica of it."""
    world = simulation.World(1)
    world.run(3)
    slot = world.view.slots[0]
    world.nodes[slot.primary].partitions[0].write()
    world.run(4)
    return world, next(name for name in simulation.NODES if name not in slot.replicas)


def move(world: simulation.World, *, add: str, remove: str) -> None:
    slot = world.view.slots[0]
    op = meta.StartMove(slot=0, epoch=slot.epoch, ver=slot.ver, add=[add], remove=[remove])
    assert world.command(rules.start_move, op).outcome == meta.OK


def finish(world: simulation.World) -> None:
    """As soon as what is added is in sync."""
    while set(world.view.slots[0].adding) - set(world.view.slots[0].isr):
        world.run(world.now_s + 0.1)
    slot = world.view.slots[0]
    assert world.command(rules.finish_move, meta.FinishMove(slot=0, epoch=slot.epoch, ver=slot.ver)).outcome == meta.OK


def check_all_in_sync_have_it(world: simulation.World, late: str) -> None:
    """However long the slot was idle since: the late one counts, and has what the others have."""
    slot = world.view.slots[0]
    assert late in slot.isr
    assert len({repr(sorted(world._content(name, 0).items())) for name in slot.isr}) == 1


def test_what_is_new_to_a_late_watch_does_not_undo_what_a_leader_gave() -> None:
    """It heard last of the leader's epoch by which it had no part in the slot, threw away what it had confirmed, and led
    empty when its turn came."""
    world, late = world_with_mail()
    slot = world.view.slots[0]
    heir = next(name for name in slot.isr if name != slot.primary)
    leaving = next(name for name in slot.replicas if name not in {heir, slot.primary})
    world.nodes[late].lag_s = 2.0
    op = meta.TransferPrimary(slot=0, epoch=slot.epoch, ver=slot.ver, to=heir)
    assert world.command(rules.transfer, op).outcome == meta.OK
    world.nodes[late].lag_s = 2.5
    move(world, add=late, remove=leaving)
    world.run(world.now_s + 6)
    check_all_in_sync_have_it(world, late)


def leave_and_come_back(world: simulation.World, replica: str, other: str, late: str, lags_s: tuple[float, float]) -> None:
    """`other` takes the place of a replica, which then takes it back. The watch of `late` tells of the one and the other after
    `lags_s`."""
    move(world, add=other, remove=replica)
    world.nodes[late].lag_s = lags_s[0]
    finish(world)
    if lags_s[1] < lags_s[0]:
        world.run(world.now_s + 0.5)
    world.nodes[late].lag_s = lags_s[1]
    move(world, add=replica, remove=other)
    world.run(world.now_s + 6)
    check_all_in_sync_have_it(world, replica)


def test_a_replica_that_left_and_came_back_keeps_what_it_was_given_since() -> None:
    """Its watch was late, and told of its leaving when it had come back."""
    world, other = world_with_mail()
    slot = world.view.slots[0]
    late = next(name for name in slot.replicas if name != slot.primary)
    leave_and_come_back(world, late, other, late, (1.5, 2.0))


def test_a_leader_that_missed_that_a_replica_had_left_asks_it_anew() -> None:
    """It had given up what it had, and was never in sync again unless somebody wrote."""
    world, other = world_with_mail()
    slot = world.view.slots[0]
    replica = next(name for name in slot.replicas if name != slot.primary)
    leave_and_come_back(world, replica, other, slot.primary, (1.5, 0.5))


# --- Rules taken away -------------------------------------------------------------------------------------------------

Mutant = Callable[[pytest.MonkeyPatch], None]


def acknowledged_before_the_disk(patch: pytest.MonkeyPatch) -> None:
    def put(self: Follower, node: str, message: peer.Append) -> None:
        self.log.append(self.host.commit.batch, message.offset, decode_rows(message.rows))
        self.host.commit.then(lambda failure: None)
        self._answer(node, peer.AppendAck.ACCEPTED, message.offset)

    patch.setattr(Follower, "_put", put)


def set_shrunk_before_meta_agrees(patch: pytest.MonkeyPatch) -> None:
    ask = Leader._ask

    def asked(self: Leader, isr: Any) -> None:
        members = list(isr)
        ask(self, members)
        view = meta.Slot()
        view.CopyFrom(self.view)
        view.isr[:] = members
        self.view = view
        if self.asked is not None:
            self.asked.isr[:] = members

    patch.setattr(Leader, "_ask", asked)


def fork_not_repaired(patch: pytest.MonkeyPatch) -> None:
    repair = Leader._repair
    patch.setattr(Leader, "_repair", lambda self, replica, common, keys: repair(self, replica, common, b""))


def copy_without_what_changed_meanwhile(patch: pytest.MonkeyPatch) -> None:
    copied = Leader._copied

    def late(self: Leader, replica: Replica, part: int) -> None:
        if replica.copy is not None and replica.copy.is_done:
            replica.copy.begun_at = self.local
        copied(self, replica, part)

    patch.setattr(Leader, "_copied", late)


def served_while_another_may(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replicator, "_others_may_serve", lambda self, leader: False)


def most_are_enough(patch: pytest.MonkeyPatch) -> None:
    """An entry counts as committed when one replica has it, whoever else is in the set."""

    def advance(self: Leader, original: Any = Leader._advance) -> None:
        acked = {node: replica.acked for node, replica in self.replicas.items()}
        best = max(acked.values(), default=0)
        for replica in self.replicas.values():
            replica.acked = best
        original(self)
        for node, replica in self.replicas.items():
            replica.acked = acked[node]

    patch.setattr(Leader, "_advance", advance)


@pytest.mark.parametrize(
    "mutant",
    [
        acknowledged_before_the_disk,
        set_shrunk_before_meta_agrees,
        fork_not_repaired,
        copy_without_what_changed_meanwhile,
        served_while_another_may,
        most_are_enough,
    ],
)
def test_every_rule_is_missed_when_it_is_gone(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    for seed in range(MUTANT_SCHEDULES):
        try:
            simulation.run(seed)
        except Exception:  # noqa: BLE001  # broken in whatever way: it was noticed
            return
    pytest.fail(f"{MUTANT_SCHEDULES} schedules went well without it")
