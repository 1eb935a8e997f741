"""A server process and the actors that load it, over as many kills and restarts as a test wants.

    world = World(server)
    world.add(Sender(world.ledger, 1, "box", window=32))
    await world.connect()
    await world.acknowledged(1000)
    restart_s = await world.crash()          # kill -9, start on the same directory, everybody connects again
    await world.finish()                     # the actors come to an end
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from tests.chaos.actors import Actor
from tests.chaos.audit import Call
from tests.chaos.ledger import Ledger
from tests.chaos.link import Link
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

PATIENCE_S: Final = 60.0


class World:
    """See the module."""

    def __init__(self, server: ServerProcess, ledger: Ledger | None = None) -> None:
        self.server = server
        self.ledger = ledger or Ledger()
        self.actors: list[Actor] = []
        self.links: list[Link] = []
        self._moved = asyncio.Event()

    def add(self, *actors: Actor) -> None:
        for actor in actors:
            actor.progress = self._moved.set
        self.actors += actors

    async def connect(self) -> None:
        """A connection for every actor."""
        self.links = [await Link.dial(self.server.port) for _ in self.actors]
        for actor, link in zip(self.actors, self.links, strict=True):
            actor.begin(link)

    async def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Return when `condition` holds; it is looked at whenever an actor has come forward."""
        async with asyncio.timeout(patience_s):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    async def acknowledged(self, more: int) -> None:
        """Return when that many more sends have been acknowledged."""
        target = self.ledger.acknowledged + more
        await self.until(lambda: self.ledger.acknowledged >= target)

    async def crash(self) -> float:
        """Kill the server, start it on the same data, and connect everybody. How long the start took, in seconds."""
        self.server.kill()
        await self.disconnected()  # everything it had written is read before its end is
        began_s = time.monotonic()
        self.server.start()
        took_s = time.monotonic() - began_s
        await self.connect()
        return took_s

    async def drain(self) -> tuple[float, int]:
        """SIGTERM in the middle of it all: how long the end took, in seconds, and the exit code. The server is then started
        again, and everybody connects."""
        began_s = time.monotonic()
        self.server.process.signal(signal.SIGTERM)
        await self.disconnected()
        code = await asyncio.to_thread(self.server.process.wait)
        took_s = time.monotonic() - began_s
        self.server.start()
        await self.connect()
        return took_s, code

    async def disconnected(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(link.closed for link in self.links))

    async def finish(self) -> None:
        """Let the actors end what they are about, senders before those who wait for more, and disconnect them."""
        for actor in self.actors:
            actor.stopping = True
        await self.until(lambda: all(actor.idle for actor in self.actors))
        for link in self.links:
            link.close()
        await self.disconnected()


def caller(client: RawClient) -> Call:
    """The audit's way to ask a live server."""

    def call(command: str, body: Any, headers: dict[str, str] | None) -> dict[str, Any]:
        return client.call(b"$mq9.AI." + command.encode(), body, headers=headers)

    return call


def create(server: ServerProcess, *mailboxes: str) -> None:
    """Make mailboxes, durably."""
    client = server.raw()
    for mailbox in mailboxes:
        answer = client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": mailbox})
        assert not answer["error"], answer
