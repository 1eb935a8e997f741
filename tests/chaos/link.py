"""A connection for tests that load a server and then break it: requests are answered by callbacks, losses are answers too.

    link = await Link.dial(port)
    link.ask("MSG.SEND.box", b"hello", header, done=callback)     # callback(payload), or callback(None): the connection went
    link.subscribe("$mq9.AI.MAILBOX.MSG.box.*", "crew", callback)  # callback(header, payload)
    await link.closed

Light on purpose: it shares two cores with the server it loads.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

from tests.support.raw import header_block

HOST: Final = "127.0.0.1"
DIAL_TIMEOUT_S: Final = 20.0

Done = Callable[[bytes | None], None]
Pushed = Callable[[bytes, bytes], None]

_numbers = itertools.count(1)


class Link(asyncio.Protocol):
    """One client connection. `token` of a request is the last token of its reply subject: a trace of the server names it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.number = next(_numbers)
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.lost: Callable[[], None] | None = None
        self._inbox = b"_INBOX.%d." % self.number
        self._buffer = b""
        self._waiting: dict[bytes, tuple[str, Done]] = {}
        self._pushed: dict[bytes, Pushed] = {}
        self._tokens = itertools.count(1)
        self._sids = itertools.count(2)
        self._transport: asyncio.Transport
        self._out: list[bytes] = []
        self._loop = loop
        self.heard_s = loop.time()  # when the server last said anything

    @classmethod
    async def dial(cls, port: int, name: str = "chaos", *, host: str = HOST, timeout_s: float = DIAL_TIMEOUT_S) -> Link:
        """Connect, and return once the server has answered. Raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(cls, host, port)
            link.say(
                b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"name":"%b"}\r\n'
                b"SUB %b* 1\r\nPING\r\n" % (name.encode(), link._inbox)
            )
            await link.ready
        return link

    @property
    def waiting(self) -> list[str]:
        """What was asked and not answered: the subjects after `$mq9.AI.`, by token."""
        return [f"{command} ({token.decode()})" for token, (command, _) in self._waiting.items()]

    # --- saying -------------------------------------------------------------------------------------------------

    def say(self, data: bytes) -> None:
        """Bytes for the server, written once at the end of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def ask(self, command: str, payload: bytes, headers: dict[str, str] | None = None, *, done: Done) -> bytes:
        """Send a command; `done` gets the payload of its answer, or None when the connection goes first. Its token."""
        token = b"%d" % next(self._tokens)
        self._waiting[token] = (command, done)
        reply = self._inbox + token
        if headers:
            header = header_block(headers)
            head = b"HPUB $mq9.AI.%b %b %d %d\r\n" % (command.encode(), reply, len(header), len(header) + len(payload))
            self.say(head + header + payload + b"\r\n")
        else:
            self.say(b"PUB $mq9.AI.%b %b %d\r\n" % (command.encode(), reply, len(payload)) + payload + b"\r\n")
        return reply

    def subscribe(self, subject: str, queue: str, pushed: Pushed) -> None:
        sid = b"%d" % next(self._sids)
        self._pushed[sid] = pushed
        self.say(b"SUB %b %b %b\r\n" % (subject.encode(), queue.encode(), sid))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # --- hearing ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, done in waiting.values():
            done(None)
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionResetError("closed before it was ready"))
        if not self.closed.done():
            self.closed.set_result(None)
        if self.lost is not None:
            self.lost()

    def data_received(self, data: bytes) -> None:
        self.heard_s = self._loop.time()
        data = self._buffer + data
        position = 0
        while (end := data.find(b"\r\n", position)) >= 0:
            words = data[position:end].split(b" ")
            verb = words[0]
            if verb not in (b"MSG", b"HMSG"):
                self._heard(verb, data[position:end])
                position = end + 2
                continue
            stop = end + 2 + int(words[-1])
            if len(data) < stop + 2:
                break
            start = end + 2 + (int(words[-2]) if verb == b"HMSG" else 0)
            position = stop + 2
            self._deliver(words[1], words[2], data[end + 2 : start], data[start:stop])
        self._buffer = data[position:]

    def _heard(self, verb: bytes, line: bytes) -> None:
        if verb == b"PING":
            self.say(b"PONG\r\n")
        elif verb == b"PONG" and not self.ready.done():
            self.ready.set_result(None)
        elif verb == b"-ERR" and b"no clients are served here now" in line:
            if not self.ready.done():  # else it is closed like any client of a broker that is cut off
                self.ready.set_exception(ConnectionRefusedError(line.decode()))
        elif verb == b"-ERR" and b"Slow Consumer" not in line:
            raise AssertionError(line)

    def _deliver(self, subject: bytes, sid: bytes, header: bytes, payload: bytes) -> None:
        if sid == b"1":
            asked = self._waiting.pop(subject.rpartition(b".")[2], None)
            if asked is not None:
                asked[1](payload)
        else:
            self._pushed[sid](header, payload)
