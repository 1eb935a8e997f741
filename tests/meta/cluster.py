"""A meta service of real processes on free ports of 127.0.0.1, and a load whose every acknowledged write is remembered.

async with MetaCluster(tmp_path) as cluster, Load(cluster) as load:
    await load.acknowledged(500)
    cluster.kill("n0"); cluster.start("n0")
    await load.acknowledged(500)
report = await load.check()
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc

from mq9.errors import Mq9Error
from mq9.meta.client import Access, MetaClient
from mq9.v1 import meta_pb2 as meta
from tests.support.process import Process
from tests.support.server import ROOT

READY = b" meta ready "
DEADLINE_S = 30.0
SECRET = "between the nodes of this test"
T = TypeVar("T")

# Shorter than an operator's, so that a test sees many elections and compactions; not shorter than a busy machine allows.
FAST: dict[str, Any] = {
    "barrier_s": 0.1, "log_entries_max": 2000, "log_entries_kept": 500, "secret": SECRET, "disk_reserve": 0,
    "monitor_port": -1,
}  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, and that the kernel gives to no outgoing connection before a test's node listens there."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


async def until(what: str, probe: Callable[[], Awaitable[T | None]], deadline_s: float = DEADLINE_S) -> T:
    """Ask again and again until there is an answer. Fails the test, saying what was waited for, when none comes."""
    idle = asyncio.get_running_loop().create_future()
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        found = await probe()
        if found is not None and found is not False:
            return found
        await asyncio.wait({idle}, timeout=0.02)  # paces the questions; it waits for nothing else
    raise AssertionError(f"waited {deadline_s:.0f} s in vain for {what}")


@dataclass(frozen=True)
class Place:
    host: str
    raft_port: int
    api_port: int


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "meta_service", *arguments]


class MetaCluster:
    """The processes. `places` puts nodes on other addresses than 127.0.0.1; `wrap` runs them in something."""

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        *,
        places: dict[str, Place] | None = None,
        wrap: Callable[[str], list[str]] = lambda _: [],
        **settings: Any,
    ) -> None:
        self.directory = directory
        ports = free_ports(2 * size)
        self.places = places or {f"n{i}": Place("127.0.0.1", ports[2 * i], ports[2 * i + 1]) for i in range(size)}
        self._settings = {**FAST, **settings}
        self._wrap = wrap
        self.processes: dict[str, Process] = {}

    @property
    def names(self) -> list[str]:
        return list(self.places)

    @property
    def addresses(self) -> list[str]:
        return [f"{place.host}:{place.api_port}" for place in self.places.values()]

    def data(self, name: str) -> Path:
        return self.directory / name

    def arguments(self, name: str) -> list[str]:
        members = ",".join(f"{n}={p.host}:{p.raft_port}:{p.api_port}" for n, p in self.places.items())
        place = self.places[name]
        values = {
            "node": name, "members": members, "host": place.host, "port": place.api_port, "raft_host": place.host,
            "raft_port": place.raft_port, "data_dir": self.data(name), **self._settings,
        }  # fmt: skip
        return [text for key, value in values.items() for text in ("--" + key.replace("_", "-"), str(value))]

    def spawn(self, name: str) -> Process:
        """Start a node's process without waiting for it."""
        process = self.processes.get(name)
        if process is None:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            whole = [*self._wrap(name), *command(*self.arguments(name))]
            process = self.processes[name] = Process(whole, self.directory / f"{name}.log", environment)
        process.spawn()
        return process

    def start(self, *names: str) -> None:
        """Start these nodes, or all, and wait until each listens."""
        started = [self.spawn(name) for name in names or self.names]
        for process in started:
            line = process.read_line()
            assert READY.decode() in line, line
            process.drain_output()

    def kill(self, *names: str) -> None:
        """kill -9 these nodes, or all, as nearly at once as can be."""
        for name in names or self.names:
            self.processes[name].signal(signal.SIGKILL)
        for name in names or self.names:
            self.processes[name].kill()

    def client(self, deadline_s: float = DEADLINE_S) -> MetaClient:
        return MetaClient(self.addresses, Access(token=str(self._settings.get("token", ""))), deadline_s=deadline_s)

    def address(self, name: str) -> str:
        place = self.places[name]
        return f"{place.host}:{place.api_port}"

    async def status(self, name: str) -> meta.StatusReply | None:
        async with self.client() as client:
            try:
                return await client.status(self.address(name), timeout_s=0.5)
            except Mq9Error:
                return None

    async def leader(self, *, other_than: str = "") -> str:
        """Who leads, as a node says that leads."""

        async def ask() -> str | None:
            for name in self.names:
                if name == other_than or not self.processes[name].running:
                    continue
                status = await self.status(name)
                if status is not None and status.role == "leader":
                    return name
            return None

        return await until("a leader", ask)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        running = {name: process for name, process in self.processes.items() if process.running}
        for process in running.values():
            process.signal(signal.SIGCONT)  # a stopped process cannot end
            process.signal(signal.SIGTERM)
        codes = {name: process.wait() for name, process in running.items()}
        if kind is None:
            assert set(codes.values()) <= {0}, f"exit codes {codes}\n{self.log()}"
            assert "Traceback" not in self.log(), self.log()

    def log(self) -> str:
        return "\n".join(f"--- {name}\n{process.log[-20_000:]}" for name, process in self.processes.items())


async def found(cluster: MetaCluster, brokers: int = 1) -> meta.Delta:
    """Register brokers until the slots have a primary; the view. Sessions must be long: nobody sends heartbeats."""
    async with cluster.client() as client:

        async def ready() -> meta.Delta | None:
            view = await client.view()
            return view if view.slots and all(slot.primary for slot in view.slots) else None

        async def founded() -> meta.Delta | None:
            view = await client.view()
            return view if view.config.cluster_id else None

        await until("a founded cluster", founded)
        for number in range(brokers):
            name = f"b{number}"
            await client.register(
                meta.RegisterRequest(node=name, disk_id=name.encode(), peer_address=f"{name}:1", client_address=f"{name}:2")
            )
        return await until("primaries", ready)


# For clusters that only serve as a store of floors: one broker, which is never fenced.
STORE: dict[str, Any] = {"slots": 4, "replication_factor": 1, "min_in_sync": 1, "session_s": 3600, "lease_s": 60}


@dataclass(frozen=True)
class Report:
    attempted: int
    acknowledged: int
    found: int
    lost: int
    wrong: int
    longest_gap_s: float  # between two acknowledgements

    def __str__(self) -> str:
        return (
            f"attempted {self.attempted}, acknowledged {self.acknowledged}, found {self.found}, lost {self.lost}, "
            f"wrong {self.wrong}, unknown {self.attempted - self.acknowledged}, longest gap {self.longest_gap_s:.3f} s"
        )


class Load:
    """Writers that each commit one floor after another, to a mailbox of its own each, so that every write can be found."""

    def __init__(self, cluster: MetaCluster, writers: int = 16, epoch: int = 1) -> None:
        self._cluster = cluster
        self._writers = writers
        self._epoch = epoch
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = False
        self._changed = asyncio.Event()
        self.attempted: dict[int, int] = {}
        self.done: dict[int, int] = {}  # mailbox -> floor
        self.times: list[float] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._write(number)) for number in range(self._writers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _write(self, writer: int) -> None:
        rng = random.Random(writer)
        async with self._cluster.client(deadline_s=60) as client:
            for number in range(1_000_000):
                if self._stop:
                    return
                mailbox, floor = writer * 1_000_000 + number, rng.getrandbits(40) + 1
                self.attempted[mailbox] = floor
                slot = meta.SlotFloors(slot=mailbox % 4, epoch=self._epoch)
                slot.floors.add(mailbox=mailbox, consumer=writer, tier=1, floor=floor)
                try:
                    reply = await client.commit_offsets(meta.CommitOffsetsRequest(slots=[slot]))
                except (Mq9Error, grpc.aio.UsageError):
                    continue  # not acknowledged: it may or may not be there
                assert not reply.stale_slots
                self.done[mailbox] = floor
                self.times.append(time.monotonic())
                self._changed.set()

    async def acknowledged(self, more: int, deadline_s: float = 60.0) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = len(self.done) + more
        async with asyncio.timeout(deadline_s):
            while len(self.done) < wanted:
                self._changed.clear()
                await self._changed.wait()

    def silence_after(self, moment_s: float) -> float:
        """The longest time without an acknowledged write since `moment_s` (time.monotonic)."""
        times = [moment_s, *(each for each in self.times if each > moment_s)]
        return max(after - before for before, after in itertools.pairwise(times))

    async def check(self) -> Report:
        """Compare what was acknowledged with what is there."""
        async with self._cluster.client(deadline_s=60) as client:
            there = {floor.mailbox: floor.floor for slot in range(4) for floor in await client.offsets(slot)}
        lost = [mailbox for mailbox, floor in self.done.items() if there.get(mailbox) != floor]
        wrong = [mailbox for mailbox, floor in there.items() if self.attempted.get(mailbox) != floor]
        gaps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        return Report(len(self.attempted), len(self.done), len(there), len(lost), len(wrong), max(gaps, default=0.0))
