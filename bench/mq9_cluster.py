"""Three meta nodes and three brokers as processes: every mailbox has three replicas, two of them at least in sync."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.broker import LoadFailed
from bench.systems import PLACES, READY_S, Box, ask, attempts
from mq9 import settings
from mq9.cli import cluster_files, local_cluster
from mq9.meta.client import Access, MetaClient
from mq9.storage.layout import slot_of
from mq9.v1 import meta_pb2 as meta
from tests.support.process import Process

FLAGS: Final = ("--slots", "256", "--replication-factor", "3", "--min-in-sync", "2")
# No model is loaded beside the first measurements, and a stop does not wait for clients that are gone.
VALUES: Final = {"embedding": "none", "lame_duck_grace_s": "0.05", "lame_duck_close_s": "0.05"}


class Mq9Cluster:
    """See System."""

    name = "mq9"

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        """Start it; the stack stops it."""
        self._numbers = itertools.count(1)
        self._files = cluster_files.prepare(directory, brokers=3, metas=3, port=0)
        self._metas = processes_of(local_cluster.meta_plans(self._files, list(FLAGS)))
        self._brokers = processes_of(local_cluster.broker_plans(self._files))
        stack.callback(self._stop)
        for processes in (self._metas, self._brokers):
            start_all(processes)
        self.wait_in_sync()

    # --- System ---------------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        processes = itertools.chain(self._metas.values(), self._brokers.values())
        return [process.pid for process in processes if process.running]

    def boxes(self, count: int) -> list[Box]:
        leaders = self.leaders()
        nodes = sorted(set(leaders.values()))
        made = []
        for number in range(count):
            led = {slot for slot, leader in leaders.items() if count == 1 or leader == nodes[number % len(nodes)]}
            made.append(self._make(led, leaders))
        return made

    def box_of_each_slot(self) -> list[Box]:
        """New mailboxes, one on each slot."""
        leaders = self.leaders()
        return [self._make({slot}, leaders) for slot in leaders]

    def add_readers(self, boxes: list[Box]) -> list[Box]:
        """Nothing to add: a group begins with its first FETCH. Who leads may have changed."""
        return self.placed(boxes)

    def drop(self, boxes: list[Box]) -> None:
        for box in boxes:
            self._must(box, f"$mq9.AI.MAILBOX.REMOVE.{box.name}", {})

    def send_arguments(self, boxes: list[Box]) -> tuple[str, str]:
        return ",".join(f"$mq9.AI.MSG.SEND.{box.name}" for box in boxes), '"error":""'

    def pull_arguments(self, boxes: list[Box]) -> tuple[str, str]:
        return "mq9", ",".join(box.name for box in boxes)

    # --- Nodes ----------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The brokers."""
        return list(self._brokers)

    def stored_bytes(self, name: str) -> int:
        """What the data directory of a broker takes of the disk."""
        return 512 * sum(path.stat().st_blocks for path in (self._files.root / name).rglob("*") if path.is_file())

    def pid(self, name: str) -> int:
        """The process of a broker."""
        return self._brokers[name].pid

    def stop(self, name: str) -> None:
        """SIGTERM to a broker: it hands over what it leads."""
        self._brokers[name].stop()

    def start(self, name: str) -> None:
        """Start it again, and wait until it is ready."""
        self._brokers[name].spawn()
        _wait_ready(self._brokers[name])

    # --- What meta says -------------------------------------------------------------------------------------------------

    def view(self) -> meta.Delta:
        """Brokers and slots as they are now."""
        return asyncio.run(self._view())

    async def _view(self) -> meta.Delta:
        async with MetaClient(self._files.meta_addresses, Access(self._files.secret("token")), deadline_s=READY_S) as client:
            return await client.view()

    def lacking(self, name: str = "") -> int:
        """Slots that are not led or lack an in-sync replica: the one on broker `name`, or any."""
        view = self.view()
        whole = [slot for slot in view.slots if slot.primary and (name in slot.isr if name else len(slot.isr) == 3)]
        return max(1, len(view.slots)) - len(whole)

    def wait_in_sync(self, deadline_s: float = READY_S) -> None:
        """Wait until every slot is led and has three replicas in sync."""
        for _ in attempts("every slot to be led and in sync on three brokers", deadline_s):
            if not self.lacking():
                return

    def leaders(self) -> dict[int, str]:
        """Who leads each slot. Waits until all are led."""
        for _ in attempts("every slot to be led"):
            view = self.view()
            if view.slots and all(slot.primary for slot in view.slots):
                return {slot.slot: slot.primary for slot in view.slots}
        raise AssertionError  # `attempts` ends with an exception

    def placed(self, boxes: list[Box]) -> list[Box]:
        """The same boxes with the ports of now."""
        leaders = self.leaders()
        return [Box(box.name, self._ports(leaders[slot_of(box.name.encode(), len(leaders))])) for box in boxes]

    # --- Inside ---------------------------------------------------------------------------------------------------------

    def _make(self, slots: set[int], leaders: dict[int, str]) -> Box:
        """A new mailbox on one of these slots."""
        names = (f"box{number}" for number in self._numbers)
        name, slot = next((name, slot) for name in names if (slot := slot_of(name.encode(), len(leaders))) in slots)
        box = Box(name, self._ports(leaders[slot]))
        self._must(box, "$mq9.AI.MAILBOX.CREATE", {"name": name})
        return box

    def _ports(self, leader: str) -> dict[str, int]:
        others = [name for name, process in self._brokers.items() if name != leader and process.running]
        nodes = (leader, others[0])
        return dict(zip(PLACES, (self._files.brokers[name]["client"] for name in nodes), strict=True))

    def _must(self, box: Box, subject: str, body: dict[str, Any]) -> None:
        reply = ask(box.ports["leader"], subject, body)
        if reply is None or reply.get("error"):
            raise LoadFailed(f"mq9: {subject} {body}: {reply or 'no answer'}")

    def _stop(self) -> None:
        """Brokers first: they hand over what they lead, and need the meta service for that."""
        for processes in (self._brokers, self._metas):
            running = [process for process in processes.values() if process.running]
            for process in running:
                process.signal(signal.SIGTERM)
            for process in running:
                try:
                    process.stop()
                except subprocess.TimeoutExpired:
                    continue  # it was killed


def processes_of(plans: list[local_cluster.Plan]) -> dict[str, Process]:
    """Their processes, not started."""
    values = {settings.env(name): value for name, value in VALUES.items()}
    return {plan.name: Process(plan.command, plan.log, {**plan.environ, **values}) for plan in plans}


def start_all(processes: dict[str, Process]) -> None:
    """Start them at once, and wait until each is ready."""
    for process in processes.values():
        process.spawn()
    for process in processes.values():
        _wait_ready(process)


def _wait_ready(process: Process) -> None:
    """Wait for the ready line; from then on its output is thrown away."""
    while " ready " not in process.read_line(READY_S):
        pass
    process.drain_output()
