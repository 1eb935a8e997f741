"""A cluster of real processes: meta nodes n0, n1, ... and brokers b0, b1, ... on free ports, with secrets made for it.

    async with Cluster(tmp_path) as cluster:       # all slots are served, by replicas that are all in sync
        cluster.kill("b1"); cluster.start("b1")
        cluster.pause("b2"); cluster.resume("b2")
        cluster.wipe("b1")                         # its disk is gone; it must not run
        await cluster.settled()

Names are for both kinds: `kill("n0")` kills a meta node. Logs are in the directory, one for each process.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

from mq9.errors import Mq9Error
from mq9.meta.client import Access, MetaClient
from mq9.storage.layout import slot_of
from mq9.v1 import meta_pb2 as meta
from tests.cluster.namespaces import Network
from tests.meta.cluster import MetaCluster, Place, free_ports, until
from tests.support.process import Process
from tests.support.server import COMMAND, HOST, ServerProcess

SETTLE_S: Final = 60.0
SLOTS: Final = 32  # enough to be spread; each has a leader, replicas and an epoch like those of 256
# Shorter than the defaults, as an operator may have them: tests see more changes of leader in less time.
TUNED: Final[dict[str, Any]] = {"heartbeat_s": 0.25, "lease_s": 1.0, "session_s": 1.8}
CLIENT_PORT, PEER_PORT, MONITOR_PORT = 4222, 9324, 8222  # on hosts of their own


class Cluster:
    """See the module. `settings` are those of the brokers, `meta_settings` of the meta nodes."""

    command = COMMAND  # of a broker; positive controls have one that breaks a rule

    def __init__(
        self,
        directory: Path,
        *,
        metas: int = 3,
        brokers: int = 3,
        network: Network | None = None,
        meta_settings: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.directory = directory
        self.token = secrets.token_hex(16)
        names = [f"n{number}" for number in range(metas)]
        places = {name: Place(network.hosts[name], 9423, 9323) for name in names} if network is not None else None
        whole = {"slots": SLOTS, **TUNED, **(meta_settings or {})}
        self.metas = MetaCluster(
            directory / "meta", metas, places=places, wrap=network.wrap if network is not None else lambda _: [],
            secret=secrets.token_hex(16), token=self.token, **whole,
        )  # fmt: skip
        self.network = network
        self._settings = settings
        self.brokers: dict[str, ServerProcess] = {}
        for number in range(brokers):
            self.add(f"b{number}")

    def add(self, name: str, **more: Any) -> ServerProcess:
        """One more broker, not started."""
        host, ports = HOST, free_ports(3)
        command = self.command
        if self.network is not None:
            host, ports = self.network.hosts[name], [CLIENT_PORT, PEER_PORT, MONITOR_PORT]
            command = [*self.network.wrap(name), *command]
        values = {
            "node_id": name, "meta": ",".join(self.metas.addresses), "cluster_token": self.token, "embedding": "none",
            "host": host, "port": ports[0], "peer_host": host, "peer_port": ports[1], "monitor_host": host,
            "monitor_port": ports[2], **self._settings, **more,
        }  # fmt: skip
        broker = self.brokers[name] = ServerProcess(self.directory / name, command=command, **values)
        return broker

    # --- Processes ------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Of the brokers."""
        return list(self.brokers)

    @property
    def running(self) -> list[ServerProcess]:
        return [broker for broker in self.brokers.values() if broker.running]

    def process(self, name: str) -> Process:
        return self.brokers[name].process if name in self.brokers else self.metas.processes[name]

    def start(self, *names: str) -> None:
        """Start these, or all, at once, and wait until each is ready."""
        wanted = names or (*self.metas.names, *self.names)
        with ThreadPoolExecutor(len(wanted)) as pool:
            starts = [pool.submit(self._start, name) for name in wanted]
        for each in starts:
            each.result()

    def _start(self, name: str) -> None:
        if name in self.brokers:
            self.brokers[name].start()
        else:
            self.metas.start(name)

    def kill(self, *names: str) -> None:
        """kill -9 these, as nearly at once as can be."""
        for name in names:
            self.process(name).signal(signal.SIGKILL)
        for name in names:
            self.process(name).kill()

    def pause(self, name: str) -> None:
        self.process(name).signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.process(name).signal(signal.SIGCONT)

    def wipe(self, name: str) -> None:
        """Take the disk away of a broker that does not run."""
        assert not self.brokers[name].running
        shutil.rmtree(self.brokers[name].data_dir)

    def stop(self) -> dict[str, int]:
        """SIGTERM to brokers, then to the meta service; exit codes by name."""
        return self.stop_brokers() | self._stop(self.metas.names)

    def stop_brokers(self) -> dict[str, int]:
        """SIGTERM to the brokers that run, all at once."""
        return self._stop(self.names)

    def _stop(self, names: list[str]) -> dict[str, int]:
        running = [name for name in names if self._runs(name)]
        for name in running:
            self.resume(name)  # a stopped process cannot end
            self.process(name).signal(signal.SIGTERM)
        return {name: self.process(name).wait() for name in running}

    def _runs(self, name: str) -> bool:
        if name in self.brokers:
            return self.brokers[name].running
        return name in self.metas.processes and self.metas.processes[name].running

    def finish(self, *, judge: bool = True) -> None:
        """Stop everything; with `judge`, everything must have gone well."""
        for broker in self.brokers.values():
            broker.close_clients()
        codes = self.stop()
        if not judge:
            return
        assert not any(codes.values()), f"exit codes {codes}\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()

    def log(self) -> str:
        """The ends of all logs."""
        brokers = "\n".join(f"--- {name}\n{broker.log[-20_000:]}" for name, broker in self.brokers.items())
        return f"{brokers}\n{self.metas.log()}"

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.start)
            await self.settled()
        except BaseException:
            self.finish(judge=False)
            raise
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await asyncio.to_thread(self.finish, judge=kind is None)

    # --- What it knows of itself ----------------------------------------------------------------------------------

    def client(self, deadline_s: float = 5.0) -> MetaClient:
        """A client of the meta service."""
        return MetaClient(self.metas.addresses, Access(self.token), deadline_s=deadline_s)

    async def view(self) -> meta.Delta:
        async with self.client() as client:
            return await client.view()

    async def owner(self, mailbox: str) -> str:
        """The broker that leads the slot of a mailbox; empty: none."""
        slot = slot_of(mailbox.encode(), self.slots)
        return next((each.primary for each in (await self.view()).slots if each.slot == slot), "")

    @property
    def slots(self) -> int:
        return int(self.metas._settings["slots"])

    async def settled(self, *, replicas: int | None = None) -> None:
        """Wait until every slot is served, and by as many replicas in sync as there can be."""
        wanted = min(3, len(self.running)) if replicas is None else replicas

        async def ready() -> bool:
            try:
                view = await self.view()
            except Mq9Error:
                return False
            slots = list(view.slots)
            if not slots or not all(slot.primary and len(slot.isr) >= wanted and not slot.adding for slot in slots):
                return False
            led: dict[str, int] = dict.fromkeys((each.values["node_id"] for each in self.running), 0)
            for slot in slots:
                led[slot.primary] = led.get(slot.primary, 0) + 1
            served = await asyncio.gather(*(self.varz(name) for name in led))
            return all(
                page is not None and page["cluster"]["slots_served"] == count
                for page, count in zip(served, led.values(), strict=True)
            )

        try:
            await until("all slots to be served in sync", ready, SETTLE_S)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{await self._state()}\n{self.log()}") from None

    async def _state(self) -> str:
        """What the meta service and the brokers say, for whoever reads why a wait was in vain."""
        try:
            slots = [f"{s.slot} e{s.epoch} {s.primary} {list(s.isr)} of {list(s.replicas)}" for s in (await self.view()).slots]
        except Mq9Error as failure:
            slots = [str(failure)]
        pages = {name: (await self.varz(name) or {}).get("cluster") for name in self.names}
        metas = {name: await self.metas.status(name) for name in self.metas.names}
        said = [f"{name}: {' '.join(str(status).split())}" for name, status in metas.items()]
        return "\n".join([*slots, *(f"{name}: {page}" for name, page in pages.items()), *said])

    async def varz(self, name: str) -> dict[str, Any] | None:
        """What a broker's monitoring says; None when it does not answer."""
        if not self.brokers[name].running:
            return None
        url = f"{self.brokers[name].monitor_url}/varz"

        def read() -> dict[str, Any] | None:
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  # our own process
                    page: dict[str, Any] = json.load(answer)
                    return page
            except (OSError, ValueError):
                return None

        return await asyncio.to_thread(read)
