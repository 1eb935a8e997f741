"""Raft nodes in one process, with the network, the crashes and the timeouts in the hands of a seeded schedule.

Real RaftNodes on real disks (without fsync, which no crash in here can tell), through the real frame codec. A crash forgets
what was not committed. Messages are lost, repeated and overtaken; nodes are cut off, crash, restart, and come back with empty
disks. The clock never decides: election timeouts are so long that they only happen when the schedule says so.

What must hold is checked all the time: one leader a term, equal entries at equal places, and whatever was acknowledged is in
every node's history for ever.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from pysyncobj.config import FAIL_REASON

from meta_service.contracts import Tuning
from meta_service.disk import CLIENTS, NODE, STATE_TABLES, Disk
from meta_service.frames import Message, decode, encode
from meta_service.journal import INDEX
from meta_service.raft import RaftNode
from meta_service.snapshot import APPLIED_KEY, Incoming

TUNING = Tuning(
    heartbeat_s=500, election_min_s=2000, election_max_s=3000, step_down_s=1e9, log_entries_max=12, log_entries_kept=3
)
IN_FLIGHT_MAX = 60


class SafetyError(Exception):
    """Something happened that Raft promises never happens."""


class History:
    """A state machine whose state is everything that was ever applied to it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        with disk.snapshot() as snapshot:
            applied = snapshot.get(NODE, APPLIED_KEY)
            self.entries = {INDEX.unpack(key)[0]: value for key, value in snapshot.rows(CLIENTS)}
        self.applied: int = INDEX.unpack(applied)[0] if applied else 0

    def apply(self, index: int, command: bytes | None) -> bytes:
        assert index == self.applied + 1 or self.applied == 0, f"entry {index} after {self.applied}"
        self.applied = index
        self.entries[index] = command or b"-"
        self._disk.put(CLIENTS, INDEX.pack(index), command or b"-")
        return command or b"-"

    def save(self) -> None:
        self._disk.put(NODE, APPLIED_KEY, INDEX.pack(self.applied))

    def install(self, snapshot: Incoming) -> None:
        for table in STATE_TABLES:
            self._disk.clear(table)
        self.entries = {}
        for row in snapshot.rows():
            self._disk.put(row.table, row.key, row.value)
            self.entries[INDEX.unpack(row.key)[0]] = row.value
        self.applied = snapshot.index
        self.save()


class Wire:
    """What a node sends goes into the fleet's network."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet, self._name = fleet, name

    def send(self, peer: str, message: Message) -> None:
        if self._fleet.linked(self._name, peer):
            self._fleet.network.append((self._name, peer, encode(message)))

    def has_room(self, peer: str) -> bool:
        return len(self._fleet.network) < IN_FLIGHT_MAX


class Up:
    """A running node."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.disk = Disk(fleet.directory / name, sync=False)
        self.history = History(self.disk)
        others = [other for other in fleet.names if other != name]
        self.raft = fleet.kind(name, others, self.disk, self.history, Wire(fleet, name), TUNING)
        self.raft.joining._wait_s = 0  # elections that an earlier self voted in are over: their messages are gone

    def crash(self) -> None:
        self.raft.close()
        self.disk.close()


class Fleet:
    """The nodes and everything between them."""

    def __init__(self, directory: Path, seed: int, size: int = 3, kind: type[RaftNode] = RaftNode) -> None:
        self.directory = directory
        self.names = [f"n{number}" for number in range(size)]
        self.kind = kind
        self.rng = random.Random(seed)
        self.network: list[tuple[str, str, bytes]] = []
        self.cut: set[tuple[str, str]] = set()
        self.up: dict[str, Up] = {}
        self.leaders: dict[int, str] = {}
        self.agreed: dict[int, bytes] = {}  # index -> what anybody applied there
        self.proposed = 0
        self.acknowledged: set[bytes] = set()
        self.crashes = self.wipes = 0
        for name in self.names:
            self.start(name)

    def linked(self, one: str, other: str) -> bool:
        return one in self.up and other in self.up and (one, other) not in self.cut

    def start(self, name: str) -> None:
        node = self.up[name] = Up(self, name)
        for other in self.names:
            if other != name and other in self.up:
                peer = self.up[other].raft
                node.raft.peer_connected(other)
                peer.peer_connected(name)
                node.raft.joining.peer_is_blank(other, peer.journal.is_blank)
                peer.joining.peer_is_blank(name, node.raft.journal.is_blank)

    def crash(self, name: str) -> None:
        self.up.pop(name).crash()
        self.crashes += 1
        self.network = [message for message in self.network if name not in message[:2]]
        for node in self.up.values():
            node.raft.peer_disconnected(name)

    def wipe(self, name: str) -> None:
        """An empty disk, as allowed: while all others are up and members."""
        self.crash(name)
        shutil.rmtree(self.directory / name)
        self.wipes += 1
        self.start(name)

    def close(self) -> None:
        for node in self.up.values():
            node.crash()

    # --- One thing that happens ---------------------------------------------------------------------------------------

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.62:
            self.deliver()
        elif chance < 0.80:
            if self.up:
                self.tick(self.rng.choice(list(self.up.values())))
        elif chance < 0.88:
            self.propose()
        elif chance < 0.91:
            self.time_out(self.rng.choice(self.names))
        elif chance < 0.95:
            for node in self.up.values():
                node.raft._SyncObj__newAppendEntriesTime = 0
        elif chance < 0.975:
            self.disturb()
        else:
            down = [name for name in self.names if name not in self.up]
            if down:
                self.start(self.rng.choice(down))
        self.check()

    def disturb(self) -> None:
        kind = self.rng.random()
        name = self.rng.choice(self.names)
        if kind < 0.35:
            if name in self.up:
                self.crash(name)
        elif kind < 0.42:
            members = [other for other, node in self.up.items() if not node.raft.joining.active]
            if len(members) == len(self.names) > 1 and not self.cut:
                self.wipe(name)
        elif kind < 0.7:
            pairs = [(one, other) for one in self.names for other in self.names if one != other]
            one_way = self.rng.random() < 0.4
            self.cut = set(self.rng.sample(pairs, min(1, len(pairs)))) if one_way else {pair for pair in pairs if name in pair}
        else:
            self.cut = set()

    def deliver(self) -> None:
        if not self.network:
            return
        place = self.rng.randrange(len(self.network)) if self.rng.random() < 0.5 else 0
        sender, receiver, body = self.network[place]
        fate = self.rng.random()
        if fate > 0.06:  # the rest stays and comes again
            del self.network[place]
        is_lost = 0.06 < fate <= 0.12
        if not is_lost and self.linked(sender, receiver):
            self.up[receiver].raft.receive(sender, decode(body))
        if len(self.network) > 2 * IN_FLIGHT_MAX:
            del self.network[:IN_FLIGHT_MAX]

    def tick(self, node: Up) -> None:
        node.raft.tick()
        if node.raft.is_leader:
            known = self.leaders.setdefault(node.raft.term, node.raft.selfNode.id)
            if known != node.raft.selfNode.id:
                raise SafetyError(f"{known} and {node.raft.selfNode.id} lead term {node.raft.term}")

    def time_out(self, name: str) -> None:
        """So much time passes for this node that it would stand for election."""
        if name in self.up:
            raft = self.up[name].raft
            raft._SyncObj__raftElectionDeadline = 0
            raft._leader_heard_s = float("-inf")
            raft._pre_vote_due_s = 0
            for other in self.up.values():  # and for some of the others
                if self.rng.random() < 0.7:
                    other.raft._leader_heard_s = float("-inf")

    def propose(self) -> None:
        leaders = [node for node in self.up.values() if node.raft.is_leader]
        if leaders:
            self.proposed += 1
            command = b"c%d" % self.proposed
            self.rng.choice(leaders).raft.propose(command, lambda result, reason: self._done(command, reason))

    def _done(self, command: bytes, reason: int) -> None:
        if reason == FAIL_REASON.SUCCESS:
            self.acknowledged.add(command)

    # --- What must hold -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        for name, node in self.up.items():
            entries = node.history.entries
            last = node.history.applied
            if last > 1 and self.agreed.setdefault(last, entries[last]) != entries[last]:
                raise SafetyError(f"{name} applied {entries[last]!r} at {last}, others {self.agreed[last]!r}")

    def check_histories(self) -> None:
        for name, node in self.up.items():
            for index, command in node.history.entries.items():
                if self.agreed.setdefault(index, command) != command:
                    raise SafetyError(f"{name} has {command!r} at {index}, others {self.agreed[index]!r}")
        lost = self.acknowledged - set(self.agreed.values())
        if lost:
            raise SafetyError(f"acknowledged and nowhere: {sorted(lost)[:5]}")

    def settle(self) -> None:
        """Everybody is up, nothing is lost any more; in the end all have all. Checks that this comes to be."""
        self.cut = set()
        for name in self.names:
            if name not in self.up:
                self.start(name)
        want = b"the last"
        for turn in range(4000):
            if turn % 200 == 0:
                self.time_out(self.rng.choice(self.names))
            for node in self.up.values():
                node.raft._SyncObj__newAppendEntriesTime = 0
                self.tick(node)
            for sender, receiver, body in self.network:
                self.up[receiver].raft.receive(sender, decode(body))
                self.tick(self.up[receiver])
            self.network = []
            leaders = [node for node in self.up.values() if node.raft.is_leader]
            if want not in self.acknowledged and leaders and turn % 20 == 0:
                leaders[0].raft.propose(want, lambda result, reason: self._done(want, reason))
            if all(want in node.history.entries.values() for node in self.up.values()):
                break
        else:
            raise SafetyError(f"no agreement: {[(n, u.raft.role, u.raft.term, u.history.applied) for n, u in self.up.items()]}")
        self.check_histories()
        for node in self.up.values():
            missing = self.acknowledged - set(node.history.entries.values())
            if missing:
                raise SafetyError(f"{node.raft.selfNode.id} lacks what was acknowledged: {sorted(missing)[:5]}")


def run(directory: Path, seed: int, steps: int, size: int = 3, kind: type[RaftNode] = RaftNode) -> Fleet:
    """One schedule from beginning to end. Raises SafetyError, or whatever a node raised."""
    fleet = Fleet(directory, seed, size, kind)
    try:
        for _ in range(steps):
            fleet.step()
        fleet.settle()
    finally:
        fleet.close()
    return fleet
