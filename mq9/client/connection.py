"""One NATS connection of the client: requests and their replies, and what happens to them when it breaks.

All replies come to one wildcard inbox; a token in the subject says which call each belongs to. When the connection breaks,
every waiting call fails at once as `Unanswered`, and nats-py reconnects by itself. `generation` counts connections: what a
broker tied to an earlier one (leases) is gone when it has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, TypedDict
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from mq9.client.retry import Attempts, Closed, Unanswered
from mq9.client.wire import NO_RESPONDERS, STATUS, is_streamed
from mq9.errors import Mq9Error, error

log = logging.getLogger("mq9.client")

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
SILENCE_S: Final = 2.0  # see ConnectOptions
GOODBYE_S: Final = 2.0  # for what is still to be written when the client closes
CLOSE_S: Final = 0.2  # for saying goodbye to a server that was never really reached


class ConnectOptions(TypedDict, total=False):
    """How to connect. Times are seconds.

    `reconnect_attempts` below 0 (the default) tries for ever. `tls` is a ready SSLContext; a broker that asks for TLS is
    answered with the system's trusted certificates without one. When calls wait and nothing arrives for `silence_s`, the
    broker is asked whether it is there, and has as long to say so before we connect anew.
    """

    name: str
    user: str | None
    password: str | None
    token: str | None
    tls: ssl.SSLContext | None
    tls_hostname: str | None
    connect_timeout_s: float
    reconnect_attempts: int
    reconnect_delay_s: float
    silence_s: float
    inbox_prefix: str


def server_list(servers: str | Iterable[str]) -> list[str]:
    """URLs given one by one, as a list, or in one comma-joined string. Raises INVALID_REQUEST for what is no URL."""
    parts = servers.split(",") if isinstance(servers, str) else list(servers)
    urls = [part.strip() if "://" in part else f"nats://{part.strip()}" for part in parts if part.strip()]
    for url in urls:
        parsed = _split(url)
        if parsed is None or parsed.scheme not in ("nats", "tls", "ws", "wss") or not parsed.hostname:
            raise error("INVALID_REQUEST", reason=f"not a server URL: {redacted(url)}")
    if not urls:
        raise error("INVALID_REQUEST", reason="no server URL")
    return urls


def _split(url: str) -> Any:
    try:
        parsed = urlsplit(url)
        _ = parsed.port  # raises for one that is no number
    except ValueError:
        return None
    return parsed


def redacted(url: str) -> str:
    """`url` without its user, password or token: for messages and logs."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else url.rpartition("@")[2]


class _Call:
    """A request that waits for its reply. `parts` collects the messages of a stream reply that come before its end."""

    __slots__ = ("future", "parts", "subject")

    def __init__(self, subject: str, parts: list[Msg] | None) -> None:
        self.subject = subject
        self.parts = parts
        self.future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    def feed(self, msg: Msg) -> None:
        if self.parts is not None and is_streamed(msg.headers):
            self.parts.append(msg)
        elif not self.future.done():
            self.future.set_result(msg)

    def fail(self, failure: Mq9Error) -> None:
        if not self.future.done():
            self.future.set_exception(failure)


class _TlsNats(Nats):
    """nats-py takes TLS when the server offers it; when TLS was asked for, nothing goes out without it."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnRequiredError
        return super()._connect_command()


@contextlib.asynccontextmanager
async def nats_connection(servers: str | Iterable[str], options: ConnectOptions) -> AsyncIterator[Nats]:
    """A plain nats-py connection made with the client's options and errors: for core publish and subscribe."""
    connection = Connection(server_list(servers), options)
    await connection.open()
    try:
        yield connection.nats
    finally:
        await connection.close()


class Connection:
    """See the module. Not for sharing between event loops."""

    def __init__(self, servers: Sequence[str], options: ConnectOptions) -> None:
        self._servers = list(servers)
        self._options = options
        self._nc: Nats | None = None
        self._connected = asyncio.Event()
        self._calls: dict[str, _Call] = {}
        self._tokens = 0
        self._inbox = ""
        self._watcher: asyncio.Task[None] | None = None
        self._opening: Nats | None = None
        self._last_failure: Exception | None = None
        self.generation = 0

    # --- Opening and closing ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Raises UNAVAILABLE when no server answers, FORBIDDEN when one refuses the credentials."""
        options = self._nats_options()
        # TLS inside WebSocket is the transport's own; of NATS's own kind nats-py must be reminded.
        nc = _TlsNats() if "tls" in options and not self._servers[0].startswith("ws") else Nats()
        try:
            async with asyncio.timeout(options["connect_timeout"]):
                self._opening = nc
                await nc.connect(**options)
            if not nc.is_connected:
                # nats-py goes on when the server hangs up where its first PONG is due: no certificate, too many clients.
                raise nats.errors.UnexpectedEOF
        except (TimeoutError, OSError, nats.errors.Error) as failure:
            with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
                # After a TLS handshake that failed nats-py would wait for ever for the end of what is closed already.
                async with asyncio.timeout(CLOSE_S):
                    await nc.close()
            raise self._refused(failure) from failure
        finally:
            self._opening = None
        # Until here it was a few attempts, so that a wrong address is said soon; from now on it is as many as wanted.
        nc.options["max_reconnect_attempts"] = self._options.get("reconnect_attempts", -1)
        self._nc = nc
        self._inbox = f"{self._options.get('inbox_prefix', '_INBOX')}.{secrets.token_hex(11)}."
        # No limits: what may arrive is bounded by what was asked for, and dropping a reply would only make a call time out.
        await nc.subscribe(self._inbox + "*", cb=self._reply, pending_msgs_limit=0, pending_bytes_limit=0)
        self.generation = 1
        self._connected.set()
        self._watcher = asyncio.create_task(self._watch())

    def _nats_options(self) -> dict[str, Any]:
        given = self._options
        delay_s = given.get("reconnect_delay_s", 0.25)
        options: dict[str, Any] = {
            "servers": self._servers,
            "name": given.get("name", "mq9-python"),
            "connect_timeout": given.get("connect_timeout_s", 5.0),
            "max_reconnect_attempts": max(1, given.get("reconnect_attempts", 1)),
            # Apart by a fifth from client to client, so that those of a restarted broker do not knock all at once.
            "reconnect_time_wait": delay_s * random.uniform(0.9, 1.1),
            "error_cb": self._error,
            "disconnected_cb": self._lost,
            "reconnected_cb": self._again,
            "closed_cb": self._lost,
            "inbox_prefix": given.get("inbox_prefix", "_INBOX"),
        }
        for name in ("user", "password", "token", "tls", "tls_hostname"):
            value = given.get(name)
            if value is not None:
                options[name] = value
        if "tls" not in options and any(url.startswith(("tls://", "wss://")) for url in self._servers):
            options["tls"] = ssl.create_default_context()
        return options

    def _refused(self, failure: Exception) -> Mq9Error:
        cause = self._last_failure if self._last_failure is not None else failure
        if _is_refusal(cause):
            return error("FORBIDDEN", reason="the server refused these credentials")
        return error("UNAVAILABLE", reason=f"cannot connect to {self.where}: {str(cause) or type(cause).__name__}")

    @property
    def where(self) -> str:
        """The servers, for messages."""
        return ", ".join(map(redacted, self._servers))

    async def idle(self) -> None:
        """Wait until every call that is under way has its answer."""
        while self._calls:
            await asyncio.wait([call.future for call in self._calls.values()])
            await asyncio.sleep(0)  # the callers take their answers

    @property
    def nats(self) -> Nats:
        """What nats-py made of it; there is one once it was opened."""
        assert self._nc is not None, "not opened"
        return self._nc

    @property
    def closed(self) -> bool:
        return self._nc is None or self._nc.is_closed

    async def close(self) -> None:
        """Close at once: calls that still wait fail. Safe to repeat."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self._nc is not None and not self._nc.is_closed:
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await self._nc.close()
            except TimeoutError:
                # The server takes nothing any more: what is still to be written would keep us here for as long as TCP tries.
                _abort(self._nc)
                await self._lost()

    # --- What nats-py tells us --------------------------------------------------------------------------------

    async def _error(self, failure: Exception) -> None:
        """nats-py's errors without a caller: refused connections, and -ERR of the server."""
        text = str(failure)
        if not isinstance(failure, nats.errors.NoServersError):
            self._last_failure = failure
        log.debug("connection to %s: %r", self.where, failure)
        if self._opening is not None and (_is_refusal(failure) or isinstance(failure, ssl.SSLError)):
            # Another attempt cannot help, and a server makes each wrong password slower: this ends the connecting.
            self._opening.options["allow_reconnect"] = False
        if "permissions violation" not in text:
            return
        for call in self._calls.values():
            # nats-py lowers the server's words; a refused inbox means that no answer can reach us at all.
            if call.subject.lower() in text or self._inbox[:-1] in text:
                call.fail(error("FORBIDDEN", reason=f"permissions violation for {call.subject}"))

    async def _lost(self) -> None:
        self._connected.clear()
        if self.closed:
            self._connected.set()  # whoever waits for a connection learns that there will be none
        for call in self._calls.values():
            call.fail(self._ended() if self.closed else _unanswered("the connection broke"))

    def _ended(self) -> Mq9Error:
        reason = "not connected yet" if self._nc is None else f"the connection to {self.where} is closed"
        return Closed("UNAVAILABLE", f"unavailable: {reason}", retryable=False, status=409)

    async def _again(self) -> None:
        self.generation += 1
        self._connected.set()

    async def _reply(self, msg: Msg) -> None:
        call = self._calls.get(msg.subject[len(self._inbox) :])
        if call is not None:
            call.feed(msg)

    async def _watch(self) -> None:
        """Notice a broker that is gone without a word, which TCP tells after minutes.

        While calls wait and nothing arrives, ask for a PONG; if none comes, connect anew, which fails the calls so that
        they are repeated.
        """
        nc = self.nats
        silence_s = self._options.get("silence_s", SILENCE_S)
        seen = 0
        while not nc.is_closed:
            await asyncio.sleep(silence_s)
            arrived, seen = nc.stats["in_msgs"] - seen, nc.stats["in_msgs"]
            if not self._calls or arrived or not nc.is_connected:
                continue
            try:
                await nc.rtt(timeout=silence_s)  # type: ignore[arg-type]  # annotated int, used as seconds
            except nats.errors.TimeoutError:
                log.warning("no word from %s; connecting anew", self.where)
                _abort(nc)  # which nats-py meets as an end, and connects again
            except nats.errors.Error as failure:
                log.debug("the connection broke while it was watched: %r", failure)

    # --- Requests ---------------------------------------------------------------------------------------------

    async def _ready(self, attempts: Attempts) -> Nats:
        """The connection, as soon as there is one. Raises Closed when there will not be."""
        while True:
            nc = self._nc
            if nc is None or nc.is_closed:
                raise self._ended()
            # nats-py says "connected" before it has told the server our inbox again, and our event lags behind a break.
            if nc.is_connected and self._connected.is_set():
                return nc
            attempts.blocked = f"not connected to {self.where}"
            if not nc.is_connected:
                self._connected.clear()
            await self._connected.wait()
            attempts.blocked = ""

    async def request(
        self,
        attempts: Attempts,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        parts: list[Msg] | None = None,
    ) -> Msg:
        """Publish and wait for the reply; `attempts` holds the deadline. With `parts` a reply may be a stream.

        Raises Unanswered when the connection breaks meanwhile, UNAVAILABLE when nobody serves the subject, FORBIDDEN when
        the server refuses it, PAYLOAD_TOO_LARGE.
        """
        nc = await self._ready(attempts)
        if len(payload) > nc.max_payload:
            raise error("PAYLOAD_TOO_LARGE", size=len(payload), limit=nc.max_payload)
        self._tokens += 1
        token = f"{self._tokens:x}"
        call = self._calls[token] = _Call(subject, parts)
        try:
            await nc.publish(subject, payload, reply=self._inbox + token, headers=headers)
            msg = await call.future
        except nats.errors.Error as failure:
            raise _unanswered(str(failure)) from failure
        finally:
            del self._calls[token]
        if msg.headers and msg.headers.get(STATUS) == NO_RESPONDERS and not msg.data:
            raise error("UNAVAILABLE", reason=f"{self.where} has no mq9 broker that answers on {subject}")
        return msg


def _abort(nc: Nats) -> None:
    """Drop the socket with what is still to be written, for which nats-py has no call."""
    writer = getattr(nc._transport, "_io_writer", None)  # noqa: SLF001
    if writer is not None:
        writer.transport.abort()


def _is_refusal(failure: Exception) -> bool:
    """Whether a server has refused our credentials."""
    return "authorization" in str(failure).lower()


def _unanswered(reason: str) -> Mq9Error:
    return Unanswered("UNAVAILABLE", f"unavailable: {reason}", retryable=True, status=409)
