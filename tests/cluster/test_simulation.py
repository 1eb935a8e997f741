"""Thousands of schedules of crashes, cuts, lost disks and moves; and each rule of replication taken away, which must be noticed.

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
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import peer_pb2 as peer
from tests.cluster import simulation

SCHEDULES = 120
LONG_SCHEDULES = 5000
MUTANT_SCHEDULES = 150


@pytest.mark.parametrize("part", range(4))
def test_no_schedule_loses_or_forks_anything(part: int) -> None:
    for seed in range(part * SCHEDULES // 4, (part + 1) * SCHEDULES // 4):
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
