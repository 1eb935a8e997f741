"""The monitoring pages of a broker: JSON pages, health and metrics on one port, localhost unless the settings say otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from broker_node.monitor import pages
from broker_node.monitor.metrics import registry_of
from mq9.monitor.http import MonitorServer, json_page, metrics_page

if TYPE_CHECKING:
    from broker_node.server import Server


class Monitor(MonitorServer):
    """The HTTP side of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._metrics = registry_of(server)
        routes = [
            web.get("/", self._index),
            web.get("/healthz", self._healthz),
            web.get("/varz", self._varz),
            web.get("/connz", self._connz),
            web.get("/subsz", self._subsz),
            web.get("/mailz", self._mailz),
            web.get("/metrics", self._metricsz),
        ]
        super().__init__(routes, server.hub.timing.monitor_request_s)

    async def _index(self, request: web.Request) -> web.Response:
        return json_page({"pages": ["/healthz", "/varz", "/connz", "/subsz", "/mailz", "/metrics"]})

    async def _healthz(self, request: web.Request) -> web.Response:
        page = pages.healthz(self._server)
        return json_page(page, status=200 if page["status"] == "ok" else 503)

    async def _varz(self, request: web.Request) -> web.Response:
        return json_page(pages.varz(self._server))

    async def _connz(self, request: web.Request) -> web.Response:
        return json_page(pages.connz(self._server, request.query))

    async def _subsz(self, request: web.Request) -> web.Response:
        return json_page(pages.subsz(self._server, request.query))

    async def _mailz(self, request: web.Request) -> web.Response:
        offset, limit = pages.page_of(request.query)
        return json_page({"server_id": self._server.server_id, **self._server.broker.mailz(offset, limit)})

    async def _metricsz(self, request: web.Request) -> web.Response:
        return metrics_page(request, self._metrics)
