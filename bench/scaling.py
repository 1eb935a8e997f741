"""What a growing cluster asks of its meta service: so many brokers, of which only the membership is real.

    python -m bench.scaling [--brokers 3,10,30,100] [--slots 256] [--seconds 5] [--directory DIR]

Three meta nodes run as processes. The brokers are in this process: each registers, sends heartbeats, watches, takes the slots
it is given and lets the replicas it gets into the in-sync set at once, as if there were no data to copy. Printed for each
number of brokers: until all have their share of the slots, what the meta nodes need at rest, how long a change takes until
every broker knows it, how many consumer floors a second the service takes, and how long the slots of a broker that died are
without a leader for anybody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from bench.broker import cpu_s
from bench.cluster import end
from bench.mq9_cluster import processes_of, start_all
from broker_node.cluster.membership import Membership
from meta_service.placement import places_of, target
from mq9.cli import cluster_files, local_cluster
from mq9.cli.cluster_files import ClusterFiles
from mq9.clock import SystemClock
from mq9.errors import Mq9Error
from mq9.settings import Settings
from mq9.v1 import meta_pb2 as meta

REPLICAS: Final = 3
CHANGES: Final = 20
FLOORS: Final = 1000  # of one command
AT_ONCE: Final = 4  # commands of floors on their way
POLL_S: Final = 0.005
WAIT_S: Final = 300.0


class StandIn:
    """A broker without data."""

    def __init__(self, files: ClusterFiles, name: str) -> None:
        settings = Settings(
            meta=",".join(files.meta_addresses),
            node_id=name,
            cluster_token=files.secret("token"),
            client_advertise=f"{name}:1",
            peer_advertise=f"{name}:2",
            data_dir=str(files.root),
        )
        self.name = name
        self.membership = Membership(settings, SystemClock(), name.encode())
        self.membership.on_change = self._changed
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def slots(self) -> dict[int, meta.Slot]:
        """The slots as this broker knows them."""
        return self.membership.slots

    def led(self) -> list[meta.Slot]:
        """The slots it leads."""
        return [slot for slot in self.slots.values() if slot.primary == self.name]

    def _changed(self, delta: meta.Delta) -> None:
        wanted = [slot for slot in delta.slots if slot.primary == self.name and set(slot.adding) - set(slot.isr)]
        if wanted:
            task = asyncio.ensure_future(self._let_in(wanted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _let_in(self, slots: list[meta.Slot]) -> None:
        request = meta.AlterIsrRequest(node=self.name, incarnation=self.membership.incarnation)
        for slot in slots:
            isr = list(dict.fromkeys([*slot.isr, *slot.adding]))
            known = [self.membership.brokers[node].incarnation for node in isr]
            request.changes.add(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, isr=isr, incarnations=known)
        try:
            await self.membership.client.alter_isr(request)
        except Mq9Error as failure:
            print(f"{self.name}: {failure.text}")


class Scaling:
    """One cluster of so many brokers, and what is measured on it."""

    def __init__(self, files: ClusterFiles, pids: dict[str, int], brokers: int, seconds: float) -> None:
        self._pids = pids
        self._seconds = seconds
        self.brokers = [StandIn(files, f"broker{number:03}") for number in range(brokers)]

    async def measure(self) -> dict[str, Any]:
        """The figures, by what they are."""
        first, later = self.brokers[:REPLICAS], self.brokers[REPLICAS:]
        await asyncio.gather(*(broker.membership.start() for broker in first))
        await self._until(lambda: len({slot.slot for broker in first for slot in broker.led()}) == len(first[0].slots) > 0)
        began_s = time.monotonic()
        await asyncio.gather(*(broker.membership.start() for broker in later))
        registered_s = time.monotonic() - began_s
        await self._until(self._is_shared)
        figures = {
            "brokers": len(self.brokers),
            f"registered beside {REPLICAS} in s": round(registered_s, 2),
            "all have their share of the slots after s": round(time.monotonic() - began_s, 2),
            **await self._rest(),
            **await self._change(),
            **await self._floors(),
            **await self._death(),
        }
        for broker in self.brokers:
            await broker.membership.close()
        return figures

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not is_so():  # noqa: ASYNC110 - looked at less often than it changes
                await asyncio.sleep(POLL_S)

    def _is_shared(self) -> bool:
        """The slots are where placement wants them, and everybody knows it."""
        first = self.brokers[0].slots
        if not first or any(broker.membership.rev != self.brokers[0].membership.rev for broker in self.brokers):
            return False
        places = places_of(self.brokers[0].membership.brokers.values())
        return all(
            slot.primary and set(slot.replicas) == set(slot.isr) == set(target(slot.slot, places, REPLICAS))
            for slot in first.values()
        )

    def _have_seen(self, slot: int, epoch: int) -> bool:
        return all(broker.slots[slot].epoch >= epoch for broker in self.brokers)

    async def _rest(self) -> dict[str, Any]:
        before = {name: cpu_s(pid) for name, pid in self._pids.items()}
        await asyncio.sleep(self._seconds)
        used = sorted(((cpu_s(pid) - before[name]) / self._seconds for name, pid in self._pids.items()), reverse=True)
        return {"% of a core at rest, each meta node": " ".join(f"{100 * each:.1f}" for each in used)}

    async def _change(self) -> dict[str, Any]:
        """A slot gets another leader: until every broker knows it, in milliseconds."""
        client = self.brokers[0].membership.client
        took_ms = []
        for number in range(CHANGES):
            slots = self.brokers[0].slots
            slot = slots[number % len(slots)]
            heir = next(node for node in slot.isr if node != slot.primary)
            op = meta.TransferPrimary(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, to=heir)
            began_s = time.monotonic()
            await client.admin(meta.AdminRequest(transfer=op))
            await self._until(partial(self._have_seen, slot.slot, slot.epoch + 1))
            took_ms.append(1000 * (time.monotonic() - began_s))
        return {"a change known to all after ms, median and most": f"{statistics.median(took_ms):.0f} {max(took_ms):.0f}"}

    async def _floors(self) -> dict[str, Any]:
        """Consumer floors of slots of all brokers, a thousand in a command."""
        numbers = count(1)
        until_s = time.monotonic() + self._seconds
        taken = 0

        async def commit(broker: StandIn) -> None:
            nonlocal taken
            while time.monotonic() < until_s:
                number = next(numbers)
                led = broker.led()
                request = meta.CommitOffsetsRequest()
                each = FLOORS // len(led)
                for slot in led:
                    floors = [meta.Floor(mailbox=mailbox, consumer=1, tier=1, floor=number) for mailbox in range(each)]
                    request.slots.add(slot=slot.slot, epoch=slot.epoch, floors=floors)
                await broker.membership.client.commit_offsets(request)
                taken += each * len(led)

        await asyncio.gather(*(commit(broker) for broker in [each for each in self.brokers if each.led()][:AT_ONCE]))
        return {"floors a second": round(taken / self._seconds)}

    async def _death(self) -> dict[str, Any]:
        """The broker that leads most dies: until each of the others knows another leader for all it led."""
        dead = max(self.brokers, key=lambda broker: len(broker.led()))
        self.brokers.remove(dead)
        lost = [slot.slot for slot in dead.led()]
        began_s = time.monotonic()
        await dead.membership.close()

        def is_over() -> bool:
            return all(broker.slots[slot].primary not in {"", dead.name} for broker in self.brokers for slot in lost)

        await self._until(is_over)
        return {"slots of a dead broker led again after s": round(time.monotonic() - began_s, 2)}


async def measure(brokers: int, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one cluster, made and ended for them."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mq9-bench-", dir=options.directory)))
        files = cluster_files.prepare(root, brokers=1, metas=3, port=0)
        flags = ["--slots", str(options.slots), "--replication-factor", str(REPLICAS), "--min-in-sync", "2"]
        metas = processes_of(local_cluster.meta_plans(files, flags))
        for process in metas.values():
            stack.callback(process.stop)
        start_all(metas)
        pids = {name: process.pid for name, process in metas.items()}
        return await Scaling(files, pids, brokers, options.seconds).measure()


async def measure_all(options: argparse.Namespace) -> None:
    """One cluster after the other."""
    for brokers in map(int, options.brokers.split(",")):
        figures = await measure(brokers, options)
        lines = "\n".join(f"{name}: {value}" for name, value in figures.items())
        print(json.dumps(figures) if options.json else f"\n{lines}", flush=True)


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, end)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="3,10,30,100", help="how many, one cluster after the other")
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--directory", default=None, help="where the stores are: a directory on the disk to measure")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    if not options.json:
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {platform.platform()}")
    asyncio.run(measure_all(options))


if __name__ == "__main__":
    main()
