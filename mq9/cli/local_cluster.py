"""The processes of `mq9 cluster up`: started in order, started again when they die, stopped in order.

Every process has a session of its own, so that a Ctrl-C in the terminal reaches this one alone, which then stops brokers
before the meta service: brokers hand over what they lead, and need it for that. Where the kernel can, they are told to end
when this process dies without a word.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mq9.cli.cluster_files import HOST, ClusterFiles
from mq9.errors import Mq9Error, error

READY_S: Final = 60.0  # a process that is not ready by then will not be
STOP_S: Final = 30.0  # then it is killed
PAUSES_S: Final = (0.2, 5.0)  # between a death and the next start: doubled from the one to the other
LASTING_S: Final = 30.0  # who ran this long begins with the short pause again
LOG_TAIL_BYTES: Final = 2000

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the new process, before its program: SIGTERM when the starting one is gone."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one process is started."""

    name: str
    command: list[str]
    environ: dict[str, str]
    log: Path


class Child:
    """One process, kept running until it is told to stop."""

    def __init__(self, plan: Plan, say: Callable[[str], None], *, restart: bool) -> None:
        self.plan = plan
        self._say = say
        self._restart = restart
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def start(self) -> None:
        """Start, and wait until it is ready. Raises UNAVAILABLE, with the end of its log, when it does not get there."""
        await self._spawn()
        try:
            async with asyncio.timeout(READY_S):
                is_ready = await self._ready()
        except TimeoutError:
            is_ready = False
        if not is_ready:
            tail = self.plan.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
            raise error("UNAVAILABLE", reason=f"{self.plan.name} did not start; the end of {self.plan.log}:\n{tail}")
        self._keeper = asyncio.ensure_future(self._keep())

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when it is gone."""
        self._stop.set()
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                self._say(f"{self.plan.name} did not stop within {STOP_S:.0f} s; killing it")
                process.kill()
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _spawn(self) -> None:
        with self.plan.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.plan.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=self.plan.environ, start_new_session=True,
                preexec_fn=_end_with_parent,  # one system call, of a library that is loaded already
            )  # fmt: skip

    async def _ready(self) -> bool:
        """Whether it said that it is ready; False when its output ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if b" ready " in line:
                return True
        return False

    async def _keep(self) -> None:
        pause_s = PAUSES_S[0]
        while True:
            assert self._process is not None
            assert self._process.stdout is not None
            began_s = time.monotonic()
            while await self._process.stdout.read(65536):
                pass  # nobody reads it, and a full pipe would stop the process
            code = await self._process.wait()
            if self._stop.is_set():
                return
            self._say(f"{self.plan.name} ended with {code}{'; starting it again' if self._restart else ''} ({self.plan.log})")
            if not self._restart:
                return
            pause_s = PAUSES_S[0] if time.monotonic() - began_s > LASTING_S else min(2 * pause_s, PAUSES_S[1])
            try:
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
            except TimeoutError:
                await self._spawn()


class LocalCluster:
    """All of them. `say` takes lines for whoever watches."""

    def __init__(self, files: ClusterFiles, meta_flags: list[str], say: Callable[[str], None], *, restart: bool) -> None:
        self._metas = [Child(plan, say, restart=restart) for plan in meta_plans(files, meta_flags)]
        self._brokers = [Child(plan, say, restart=restart) for plan in broker_plans(files)]

    async def start(self) -> None:
        """Start everything. Raises UNAVAILABLE, with everything stopped again, when one does not start."""
        try:
            for children in (self._metas, self._brokers):
                await _all(child.start() for child in children)
        except BaseException:  # a Ctrl-C too must leave nothing behind
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the brokers, then the meta service."""
        for children in (self._brokers, self._metas):
            await _all(child.stop() for child in children)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Wait for all, then raise what the first that failed raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _flags(values: dict[str, object]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def meta_plans(files: ClusterFiles, more: list[str]) -> list[Plan]:
    """How the nodes of the meta service are started. `more`: flags for all of them."""
    members = ",".join(f"{name}={HOST}:{ports['raft']}:{ports['api']}" for name, ports in files.meta.items())
    environ = {**os.environ, "MQ9_META_TOKEN": files.secret("token"), "MQ9_META_SECRET": files.secret("secret")}
    plans = []
    for name, ports in files.meta.items():
        flags = _flags({
            "node": name, "members": members, "host": HOST, "port": ports["api"], "raft-host": HOST, "raft-port": ports["raft"],
            "monitor-port": ports["monitor"], "data-dir": files.root / name,
        })  # fmt: skip
        command = [sys.executable, "-m", "meta_service", *flags, *more]
        plans.append(Plan(name, command, environ, files.root / f"{name}.log"))
    return plans


def broker_plans(files: ClusterFiles) -> list[Plan]:
    """How the brokers are started."""
    environ = {**os.environ, "MQ9_CLUSTER_TOKEN": files.secret("token")}
    plans = []
    for name, ports in files.brokers.items():
        flags = _flags({
            "node-id": name, "meta": ",".join(files.meta_addresses), "host": HOST, "port": ports["client"],
            "peer-host": HOST, "peer-port": ports["peer"], "monitor-host": HOST, "monitor-port": ports["monitor"],
            "data-dir": files.root / name,
        })  # fmt: skip
        command = [sys.executable, "-m", "broker_node", *flags]
        plans.append(Plan(name, command, environ, files.root / f"{name}.log"))
    return plans


async def run(files: ClusterFiles, cluster: LocalCluster, serving: Callable[[], Awaitable[None]]) -> None:
    """Start, call `serving`, and go on until a signal; then stop everything. Raises what does not let it start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.ensure_future(_start(cluster, serving))
    told = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        else:
            starting.result()
            await told
    finally:
        told.cancel()
        await asyncio.wait({starting})
        await cluster.stop()


async def _start(cluster: LocalCluster, serving: Callable[[], Awaitable[None]]) -> None:
    await cluster.start()
    try:
        await serving()
    except Mq9Error:
        await cluster.stop()
        raise
