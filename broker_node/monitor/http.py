"""The monitoring HTTP server: JSON pages, health and metrics on one port, localhost unless the settings say otherwise.

Read only. Few connections at once, and none for long: one that has not finished a request in time is cut, so that slow or
idle peers cannot hold descriptors that clients need.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import msgspec
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from broker_node.monitor import pages
from broker_node.monitor.metrics import registry_of
from mq9.limits import MONITOR_CONNECTIONS_MAX

if TYPE_CHECKING:
    from broker_node.server import Server

log = logging.getLogger("mq9.monitor")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Guard(asyncio.Protocol):
    """Passes everything on to an aiohttp protocol, and cuts the connection when it takes too long."""

    def __init__(self, inner: asyncio.Protocol, monitor: Monitor) -> None:
        self._inner = inner
        self._monitor = monitor
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._monitor.guards.add(self)
        if len(self._monitor.guards) > MONITOR_CONNECTIONS_MAX:
            self._transport.abort()
        self.renew()
        self._inner.connection_made(transport)

    def renew(self) -> None:
        """A whole request has come: the time begins anew."""
        self.stop()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(self._monitor.request_s, self._transport.abort)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop()
        self._monitor.guards.discard(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class Monitor:
    """The HTTP side of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.request_s = server.hub.timing.monitor_request_s
        self._metrics = registry_of(server)
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self.guards: set[_Guard] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/healthz", self._healthz),
                web.get("/varz", self._varz),
                web.get("/connz", self._connz),
                web.get("/subsz", self._subsz),
                web.get("/mailz", self._mailz),
                web.get("/metrics", self._metricsz),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=self.request_s)
        await runner.setup()
        self._runner = runner
        factory = runner.server
        assert factory is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Guard(factory(), self), host or None, port, reuse_address=True)
        chosen: int = self._listener.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        protocol = request.transport.get_protocol() if request.transport is not None else None
        if isinstance(protocol, _Guard):
            protocol.renew()
        try:
            response = await handler(request)
        except pages.BadQuery as problem:
            response = _json({"error": str(problem)}, status=400)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    async def _index(self, request: web.Request) -> web.Response:
        return _json({"pages": ["/healthz", "/varz", "/connz", "/subsz", "/mailz", "/metrics"]})

    async def _healthz(self, request: web.Request) -> web.Response:
        page = pages.healthz(self._server)
        return _json(page, status=200 if page["status"] == "ok" else 503)

    async def _varz(self, request: web.Request) -> web.Response:
        return _json(pages.varz(self._server))

    async def _connz(self, request: web.Request) -> web.Response:
        return _json(pages.connz(self._server, request.query))

    async def _subsz(self, request: web.Request) -> web.Response:
        return _json(pages.subsz(self._server, request.query))

    async def _mailz(self, request: web.Request) -> web.Response:
        offset, limit = pages.page_of(request.query)
        return _json({"server_id": self._server.server_id, **self._server.broker.mailz(offset, limit)})

    async def _metricsz(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics), headers={"Content-Type": content_type})


def _json(page: pages.Page, status: int = 200) -> web.Response:
    body = msgspec.json.format(msgspec.json.encode(page), indent=2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")
