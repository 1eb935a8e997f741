"""Programs the tests of the meta service run as processes of their own: python -m tests.meta.programs NAME ARGUMENTS

storm DIR COUNT NODES [nosync | hasty]
    Runs NODES meta nodes in one process, their data in DIR/n0, DIR/n1, ...; commits COUNT floors one after another, and says
    `ack N` when floor N was acknowledged. Compacts often. The hasty acknowledge entries before these are on their disks.
check NODES
    For each line of input, a directory like that after a power cut: `ok N`, where the floors 1 to N survive whoever becomes
    leader, or `refused TEXT` when a node would not start.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from meta_service.contracts import Tuning
from meta_service.disk import OFFSETS, Disk
from meta_service.engine import ClusterDefaults, Engine, EngineOptions, Hooks, NotLeader, OutcomeUnknown
from meta_service.journal import LmdbJournal
from meta_service.offsets import floors
from meta_service.raft import REGULAR, RaftNode
from meta_service.state import State
from meta_service.transport import Identity
from mq9.errors import Mq9Error
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

SLOTS = 4
TUNING = Tuning(log_entries_max=120, log_entries_kept=20)
PATIENT = replace(TUNING, election_min_s=20.0, election_max_s=21.0)
QUIET = Hooks(
    on_change=lambda _: None, on_role=lambda _: None, on_barrier=lambda *_: None, on_failure=lambda _: None
)  # fmt: skip


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


class HastyRaft(RaftNode):
    """Answers first and syncs a few turns later."""

    turns = 0

    def _settle(self) -> None:
        held, self._held = self._held, []
        for node, message in held:
            self._link.send(node.id, message)
        self.turns += 1
        if self.turns % 8 == 0:
            self.journal.flush()


def run_engines(directory: Path, nodes: int, *options: str, patient: str = "") -> list[Engine]:
    """`patient` names a node that leaves it to the others to lead."""
    sockets = [socket.socket() for _ in range(nodes)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = {f"n{i}": ("127.0.0.1", each.getsockname()[1]) for i, each in enumerate(sockets)}
    engines = []
    for each in sockets:
        each.close()
    for name, (_, port) in addresses.items():
        engine_options = EngineOptions(
            identity=Identity(name, "storm", b"secret"),
            peers={other: address for other, address in addresses.items() if other != name},
            directory=directory / name, port=port, tuning=PATIENT if name == patient else TUNING, barrier_s=0.05,
            sync="nosync" not in options, defaults=ClusterDefaults(SLOTS, 1, 1),
        )  # fmt: skip
        engines.append(Engine(engine_options, QUIET))
        if "hasty" in options:
            engines[-1].raft.__class__ = HastyRaft
        engines[-1].start()
    return engines


def commit(engines: list[Engine], command: pb.MetaCommand, deadline_s: float = 60.0) -> pb.CommandResult:
    """Have it committed, by whichever node leads."""
    end_s = time.monotonic() + deadline_s
    for engine in itertools.cycle(engines):
        try:
            return engine.propose(command).result(1.0)
        except (NotLeader, OutcomeUnknown, TimeoutError):
            if time.monotonic() > end_s:
                raise
    raise AssertionError("there are no engines")


def storm(directory: str, count: str, nodes: str, *options: str) -> None:
    Path(directory).mkdir(parents=True)
    engines = run_engines(Path(directory), int(nodes), *options)
    while not any(engine.state.view.founded for engine in engines):
        commit(engines, pb.MetaCommand(barrier=pb.Barrier()))
    commit(engines, pb.MetaCommand(register=meta.RegisterRequest(node="b", disk_id=b"d", peer_address="p", client_address="c")))
    assigned = [pb.Assignment(slot=slot, epoch=0, ver=1, replicas=["b"]) for slot in range(SLOTS)]
    assert commit(engines, pb.MetaCommand(assign=pb.Assign(assignments=assigned))).outcome == meta.OK
    for number in range(1, int(count) + 1):
        slot = meta.SlotFloors(slot=number % SLOTS, epoch=1)
        slot.floors.add(mailbox=number, consumer=1, tier=1, floor=number)
        result = commit(engines, pb.MetaCommand(offsets=meta.CommitOffsetsRequest(slots=[slot])))
        assert result.outcome == meta.OK
        assert not result.stale_slots
        say(f"ack {number}")
    for engine in engines:
        engine.stop()


def survivors(directory: Path) -> tuple[tuple[int, int], set[int]]:
    """(last term, last index) of a node's log, and the floors it would serve if it led and committed all of it."""
    disk = Disk(directory)
    try:
        state, journal = State(disk), LmdbJournal(disk)
        with disk.snapshot() as snapshot:
            found = {floor.floor for slot in range(SLOTS) for floor in floors(snapshot, slot)}
        assert OFFSETS  # the table those are in
        for command, index, _ in journal[:]:
            if index > state.applied and command[:1] == REGULAR:
                for slot in pb.MetaCommand.FromString(command[1:]).offsets.slots:
                    found.update(floor.floor for floor in slot.floors)
        return (journal.last_term, journal.last_index), found
    finally:
        disk.close()


def check(nodes: str) -> None:
    majority = int(nodes) // 2 + 1
    for line in sys.stdin:
        directory = Path(line.strip())
        try:
            all_nodes = [survivors(directory / f"n{number}") for number in range(int(nodes))]
        except Mq9Error as failure:
            say(f"refused {failure.text}")
            continue
        # Whatever majority meets, it elects a node with the longest log of the latest term among them.
        leaders = [max(group, key=lambda node: node[0]) for group in itertools.combinations(all_nodes, majority)]
        kept = set.intersection(*[found for _, found in leaders])
        say(f"ok {next(number for number in itertools.count() if number + 1 not in kept)}")


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {each.__name__: each for each in (storm, check)}
    programs[sys.argv[1]](*sys.argv[2:])
