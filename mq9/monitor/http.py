"""A small HTTP server for pages, health and metrics, on localhost unless told otherwise.

Read only. Few connections at once, and none for long: one that has not finished a request in time is cut, so that slow or
idle peers cannot hold descriptors that clients need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from mq9.limits import MONITOR_CONNECTIONS_MAX, MONITOR_REQUEST_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BadQuery(Exception):
    """A query parameter that cannot be used; the text says which and why."""


class _Guard(asyncio.Protocol):
    """Passes everything on to an aiohttp protocol, and cuts the connection when it takes too long."""

    def __init__(self, inner: asyncio.Protocol, monitor: MonitorServer) -> None:
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


class MonitorServer:
    """Serves these routes."""

    def __init__(self, routes: Iterable[web.RouteDef], request_s: float = MONITOR_REQUEST_S) -> None:
        """`request_s`: from connecting, or from the last request, to the end of the next one."""
        self._routes = list(routes)
        self.request_s = request_s
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self.guards: set[_Guard] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(self._routes)
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
        except BadQuery as problem:
            response = json_page({"error": str(problem)}, status=400)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def json_page(page: dict[str, Any], status: int = 200) -> web.Response:
    """A page of JSON for programs that people can read."""
    body = msgspec.json.format(msgspec.json.encode(page), indent=2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def metrics_page(request: web.Request, registry: CollectorRegistry) -> web.Response:
    """The metrics, in the format that the request prefers."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(registry), headers={"Content-Type": content_type})
