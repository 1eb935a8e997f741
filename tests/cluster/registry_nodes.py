"""Registries of several nodes in one process: real stores, streams in memory, one loop turned by hand.

Slots change hands as the replication would have it: the rows are where the next leader is, the former one is told first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from broker_node.cluster.registry_peers import AGAIN_S, RegistryPeers
from broker_node.loop_hooks import Cancellable
from mq9.errors import Mq9Error
from mq9.registry.registry import Commit, Registry
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Batch, Table
from mq9.storage.layout import slot_of, slot_range
from mq9.v1.peer_pb2 import PeerBatch
from tests.cluster.memory_links import MemoryLink, MemoryNetwork
from tests.registry.node import HandClock, HandLoop, Node, Words, lmdb_opener

SLOTS = 12
TABLES = (Table.AGENT, Table.AGENT_VECTOR)


class Hooks:
    """Calls now, on the hand-turned loop; calls later, when a test moves the clock."""

    def __init__(self, loop: HandLoop, clock: HandClock) -> None:
        self._loop = loop
        self._clock = clock
        self._numbers = count()
        self.timers: list[tuple[float, int, _Timer]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon(call)

    call_soon_threadsafe = call_soon

    def call_later(self, seconds: float, call: Callable[[], None]) -> Cancellable:
        timer = _Timer(call)
        heapq.heappush(self.timers, (self._clock.monotonic_s() + seconds, next(self._numbers), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self._clock.advance(seconds)
        while self.timers and self.timers[0][0] <= self._clock.monotonic_s():
            timer = heapq.heappop(self.timers)[2]
            if timer.call is not None:
                self._loop.call_soon(timer.call)


class _Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Member(Node):
    """One node. Its `registry` has the agents of its slots; clients' commands go to `peers`."""

    def __init__(self, cluster: RegistryNodes, name: str, path: Path, **settings: Any) -> None:
        self.cluster = cluster
        self.name = name
        self.lease = True
        self.words = Words()
        super().__init__(lmdb_opener(path / name), self.words, **settings)

    def start(self) -> None:
        cluster = self.cluster
        self.clock, self.loop = cluster.clock, cluster.loop
        self.store = self.open_store()
        self.commit = GroupCommit(
            self.store, self.clock, call_soon=self.loop.call_soon, call_soon_threadsafe=self.loop.call_soon, mode="inline"
        )
        self.registry = Registry(
            self.store, self.commit, self.clock, self.settings, self.loop.call_soon, make_embedder=self._make_embedder
        )
        self.registry.join_cluster(self._commit_of, SLOTS)
        self.peers = RegistryPeers(self.registry, self, self.clock, cluster.hooks)
        links = cluster.network.join(self.name)
        links.on_batch = self._on_batch
        links.on_down = self.peers.on_down

    def stop(self) -> None:
        self.registry.close()
        self.peers.close()
        self.commit.close()
        self.store.close()

    def _commit_of(self, key: bytes) -> Commit | None:
        slot = int.from_bytes(key[:2], "big")
        return self.commit if self.cluster.leaders_now.get(slot) == self.name else None

    def _on_batch(self, link: MemoryLink, batch: PeerBatch) -> None:
        for question in batch.discovers:
            self.peers.on_discover(link, question)
        for answer in batch.discovered:
            self.peers.on_discovered(link, answer)

    # --- The view that RegistryPeers asks for -----------------------------------------------------------------

    @property
    def node(self) -> str:
        return self.name

    @property
    def slots(self) -> int:
        return SLOTS

    def leaders(self) -> Mapping[int, str]:
        return self.cluster.leaders_now

    def link(self, node: str) -> MemoryLink | None:
        return self.cluster.network.nodes[self.name].link(node)

    def may_serve(self) -> bool:
        return self.lease

    # --- Commands of clients of this node ---------------------------------------------------------------------

    def send(self, verb: str, body: object) -> list[Mq9Error | None]:
        answers: list[Mq9Error | None] = []
        payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
        getattr(self.peers, verb)(payload, answers.append)
        return answers

    def ask(self, body: object, owner: int = 1) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []

        def answered(failure: Mq9Error | None, reply: bytes) -> None:
            answers.append({"failure": failure} if failure is not None else msgspec.json.decode(reply))

        self.peers.discover(body if isinstance(body, bytes) else msgspec.json.encode(body), owner, answered)
        return answers


class RegistryNodes:
    """The nodes `a`, `b` and `c`; slot n is led by the n-th of them, in turn."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.clock = HandClock()
        self.loop = HandLoop()
        self.hooks = Hooks(self.loop, self.clock)
        self.network = MemoryNetwork(self.loop.call_soon)
        self.leaders_now: dict[int, str] = {}
        self.members = {name: Member(self, name, path, **settings) for name in "abc"}
        self.network.connect_all()
        for slot in range(SLOTS):
            self.lead(slot, "abc"[slot % 3])

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def lead(self, slot: int, name: str) -> None:
        """From now on this node leads the slot, and has all its rows."""
        self.loop.run_waiting()  # vectors are stored, and replicated, right after the answer
        former = self.leaders_now.pop(slot, "")
        if former in self.members:
            self[former].registry.slot_lost(slot)
            self.copy(slot, former, name)
        self.leaders_now[slot] = name
        self[name].registry.slot_gained(slot)

    def copy(self, slot: int, source: str, target: str) -> None:
        """Make a node's rows of a slot those of another, as replication does."""
        batch = Batch()
        for table in TABLES:
            for key, _ in self[target].store.scan(table, *slot_range(slot), 1 << 30):
                batch.delete(table, key)
            for key, value in self[source].store.scan(table, *slot_range(slot), 1 << 30):
                batch.put(table, key, value)
        self[target].store.commit(batch)

    def replicate(self) -> None:
        """Every node has the rows of every slot."""
        self.loop.run_waiting()  # vectors are stored right after the answer
        for slot, leader in self.leaders_now.items():
            for name in self.members:
                if name != leader:
                    self.copy(slot, leader, name)

    def kill(self, name: str) -> None:
        """A node dies; nobody leads what it led."""
        self.network.leave(name)
        self.members.pop(name).stop()
        self.leaders_now = {slot: leader for slot, leader in self.leaders_now.items() if leader != name}

    def elect(self) -> None:
        """Those who are left take over what nobody leads; they have the rows."""
        for slot in range(SLOTS):
            if slot not in self.leaders_now:
                self.leaders_now[slot] = sorted(self.members)[slot % len(self.members)]
                self[self.leaders_now[slot]].registry.slot_gained(slot)

    def leader(self, agent: str) -> Member:
        """Who leads the slot of an agent."""
        return self[self.leaders_now[slot_of(agent.encode(), SLOTS)]]

    def register(self, name: str, **fields: Any) -> None:
        """REGISTER where the agent's slot is led, as forwarding has it; a millisecond after whatever was before."""
        self.clock.now_ms += 1
        self.leader(name).register(name, **fields)

    def register_all(self, bodies: Iterable[dict[str, Any]]) -> None:
        """The same for many, together: agents of one millisecond would have no order over several nodes."""
        waiting = []
        for body in bodies:
            self.clock.now_ms += 1
            waiting.append(self.leader(body["name"]).send("register", body))
        self.loop.run_until(lambda: all(waiting))
        assert all(answers == [None] for answers in waiting)

    def call(self, verb: str, name: str, **fields: Any) -> None:
        self.leader(name).call(verb, {"name": name, **fields})

    def tick(self) -> None:
        for member in self.members.values():
            member.registry.tick(self.clock.wall_ms())
        self.loop.run_waiting()

    def run_until_asking_again(self) -> None:
        """Turn the loop until a node waits to ask again for what nobody has answered."""
        soon_s = self.clock.monotonic_s() + AGAIN_S
        self.loop.run_until(lambda: any(due_s <= soon_s and timer.call for due_s, _, timer in self.hooks.timers))

    def late(self, answers: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer to a DISCOVER that will not be complete, when its time has come."""
        self.run_until_asking_again()
        assert not answers  # who is missing may come back, or another take its place
        return self.after(5, answers)

    def after(self, seconds: float, answers: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer when so much time has passed."""
        self.hooks.advance(seconds)
        self.loop.run_until(lambda: bool(answers))
        return answers[0]

    def rows(self, agent: str) -> int:
        """Rows of an agent in the store of its leader."""
        store, slot = self.leader(agent).store, slot_of(agent.encode(), SLOTS)
        named = [row for table in TABLES for row in store.scan(table, *slot_range(slot), 1 << 30)]
        return sum(key[2:].split(b"\0")[0] == agent.encode() for key, _ in named)

    def close(self) -> None:
        for member in self.members.values():
            member.stop()
