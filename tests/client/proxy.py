"""A TCP proxy in front of a server, for what happens to connections: it can cut them, go silent, or lose what comes back."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Proxy:
    """`async with Proxy(port) as proxy:` then connect to `proxy.url`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._own_port = 0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.lose_replies = False  # what the server says on connections that are open now, and on new ones, goes nowhere

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def listen(self) -> None:
        """Take connections, after `refuse` on the same port as before."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._own_port)
        self._own_port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Take no new connections: nobody listens on the port."""
        assert self._server is not None
        self._server.close()

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.refuse()
        self.cut()
        for link in tuple(self._links):
            await link.wait()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._own_port}"

    def cut(self) -> None:
        """Close every connection that is open now."""
        for link in tuple(self._links):
            link.close()

    def freeze(self) -> None:
        """Every connection that is open now stays open, and carries nothing any more."""
        for link in self._links:
            link.frozen = True

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run(self._port)
        finally:
            self._links.discard(link)


class _Link:
    """One client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._closed = asyncio.Event()
        self._ended = asyncio.Event()
        self.frozen = False

    async def run(self, port: int) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            self._writers.append(writer)
            await asyncio.gather(
                self._copy(self._reader, writer, from_server=False), self._copy(reader, self._writers[0], from_server=True)
            )
        except OSError:
            pass  # the server is not there, or went: so goes the client's connection
        finally:
            self.close()
            self._ended.set()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool) -> None:
        while data := await reader.read(65536):
            if self.frozen:
                await self._closed.wait()  # and take nothing more from either side
                return
            if from_server and self._proxy.lose_replies:
                continue
            writer.write(data)
            await writer.drain()
        self.close()

    def close(self) -> None:
        self._closed.set()
        for writer in self._writers:
            writer.close()

    async def wait(self) -> None:
        await self._ended.wait()
