"""NATS over WebSocket, for clients in browsers: `ws://`, or `wss://` when the server has a certificate. Off by default.

A `WebSocketDoor` is the protocol of the socket: it does the HTTP handshake and the framing (sans-IO, by the websockets
library) and hands what is inside to an ordinary `Connection`, whose transport it pretends to be. Flow control is thus that
of any other client, and so are the limits: a handshake that dawdles is a client that does not authenticate in time.

A page may only connect when it comes from this host or from an allowed origin: else any page a user opens could speak to a
broker on their own machine. Programs send no Origin and are not browsers.
"""

from __future__ import annotations

import asyncio
import http
import logging
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from broker_node.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_node.hub import Hub

log = logging.getLogger("mq9.websocket")

_DATA: Final = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)
_MESSAGE_SLACK_BYTES: Final = 64 * 1024  # protocol lines and headers around one payload
_QUIET: Final = logging.getLogger("mq9.websocket.frames")
_QUIET.setLevel(logging.WARNING)  # the library would log every frame


def origin_allowed(origin: str | None, host: str | None, allowed: str) -> bool:
    """Whether a page of `origin` may connect to `host`. `allowed`: comma-separated origins, `*` for any."""
    if origin is None:
        return True
    listed = [item.strip().rstrip("/").lower() for item in allowed.split(",") if item.strip()]
    if "*" in listed or origin.rstrip("/").lower() in listed:
        return True
    try:
        return urlsplit(origin).hostname == urlsplit(f"//{host or ''}").hostname is not None
    except ValueError:
        return False


class WebSocketDoor(asyncio.Protocol):
    """One socket that speaks WebSocket."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        limit = hub.settings.max_payload + _MESSAGE_SLACK_BYTES
        self._frames = ServerProtocol(max_size=limit, logger=_QUIET)
        self._connection = Connection(hub)
        self._raw: asyncio.Transport
        self._early: list[bytes] = []  # said before the handshake was done: INFO

    # --- called by the socket's transport -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._connection.connection_made(_Transport(self, self._raw))

    def data_received(self, data: bytes) -> None:
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Request):
                self._handshake(event)
            elif isinstance(event, Frame) and event.opcode in _DATA:
                self._connection.data_received(bytes(event.data))
        self.flush()
        if self._frames.handshake_exc is not None or self._frames.close_expected():
            self._raw.close()

    def eof_received(self) -> bool:
        self._frames.receive_eof()
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    # --- called for the connection ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Say some bytes of NATS, in one message."""
        if self._frames.state is State.CONNECTING:
            self._early.append(data)
            return
        try:
            self._frames.send_binary(data)
        except InvalidState:
            return  # the client has closed already
        self.flush()

    def say_goodbye(self) -> None:
        """The closing handshake, as far as we are concerned."""
        if self._frames.state is State.OPEN:
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
            self.flush()

    def flush(self) -> None:
        """Write what the framing has ready."""
        if self._raw.is_closing():
            return
        for data in self._frames.data_to_send():
            if data:
                self._raw.write(data)

    def _handshake(self, request: Request) -> None:
        origin, host = request.headers.get("Origin"), request.headers.get("Host")
        if not origin_allowed(origin, host, self._hub.settings.ws_allowed_origins):
            log.info("refused a page of %s", origin)
            self._frames.send_response(self._frames.reject(http.HTTPStatus.FORBIDDEN, "this origin is not allowed\n"))
            return
        self._frames.send_response(self._frames.accept(request))
        if self._frames.state is not State.OPEN:
            return
        early, self._early = self._early, []
        for data in early:
            self._frames.send_binary(data)


class _Transport(asyncio.Transport):
    """What the connection writes to: the socket's transport, with frames around what is said."""

    def __init__(self, door: WebSocketDoor, raw: asyncio.Transport) -> None:
        super().__init__()
        self._door = door
        self._raw = raw
        # What goes straight through.
        self.get_write_buffer_size: Callable[[], int] = raw.get_write_buffer_size
        self.is_closing: Callable[[], bool] = raw.is_closing
        self.abort: Callable[[], None] = raw.abort

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        # Over TLS not zero: that layer pauses at "at least", and would then wait for an end that has come already.
        over_tls = self._raw.get_extra_info("ssl_object") is not None
        self._raw.set_write_buffer_limits(max(1, high or 0) if over_tls else high, low or 0)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._door.write(bytes(data))

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self._door.say_goodbye()
        self._raw.close()
