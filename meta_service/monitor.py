"""The monitoring pages of a meta node: health, what Raft says, and metrics. Reads plain numbers; changes nothing.

Brokers and slots are shown as this node has applied them: a node that was cut off shows what was. `mq9 cluster status` asks
whoever leads.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from meta_service.rules import View
from mq9 import __version__
from mq9.meta.summary import summary
from mq9.monitor.http import MonitorServer, json_page, metrics_page
from mq9.v1 import meta_pb2 as meta

ROLES: Final = ("leader", "follower", "candidate", "joining")
_GAUGES: Final = {
    "term": "Raft term.",
    "commit_index": "Last entry that is committed, as this node knows.",
    "applied_index": "Last entry that is in this node's state.",
    "first_index": "First entry of this node's journal.",
    "last_index": "Last entry of this node's journal.",
}
_SLOTS: Final = {
    "without_primary": "Slots that nobody leads.",
    "under_replicated": "Slots with a replica that is not in sync.",
    "not_writable": "Slots that take no messages: nobody leads, or too few replicas are in sync.",
    "lost": "Slots whose last in-sync replica came back with another disk.",
    "moving": "Slots whose replicas are being moved.",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers are."""

    status: Callable[[], meta.StatusReply]
    proposals: Callable[[], int]
    failure: Callable[[], BaseException | None]
    view: Callable[[], View]


class MetaMonitor(MonitorServer):
    """The HTTP side of one meta node."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Numbers(sources))
        ProcessCollector(registry=self._registry)
        super().__init__(
            [
                web.get("/", self._index),
                web.get("/healthz", self._healthz),
                web.get("/raftz", self._raftz),
                web.get("/metrics", self._metrics),
            ]
        )

    async def _index(self, request: web.Request) -> web.Response:
        return json_page({"pages": ["/healthz", "/raftz", "/metrics"]})

    async def _healthz(self, request: web.Request) -> web.Response:
        status, failure = self._sources.status(), self._sources.failure()
        problem = str(failure) if failure else "joining" if status.role == "joining" else "" if status.leader else "no leader"
        if problem:
            return json_page({"status": "unavailable", "error": problem}, status=503)
        return json_page({"status": "ok"})

    async def _raftz(self, request: web.Request) -> web.Response:
        return json_page(raftz(self._sources.status()))

    async def _metrics(self, request: web.Request) -> web.Response:
        return metrics_page(request, self._registry)


def raftz(status: meta.StatusReply) -> dict[str, Any]:
    """What one node says of itself, by the names of StatusReply; bytes in hexadecimal."""
    page: dict[str, Any] = {}
    for field in status.DESCRIPTOR.fields:
        value = getattr(status, field.name)
        page[field.name] = value.hex() if isinstance(value, bytes) else list(value) if field.is_repeated else value
    return page


class _Numbers(Collector):
    """Everything this node counts."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read a node that is not up yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("mq9_build", "This build.", {"version": __version__, "python": platform.python_version()})
        status = self._sources.status()
        for name, doc in _GAUGES.items():
            yield GaugeMetricFamily(f"mq9_meta_{name}", doc, getattr(status, name))
        role = GaugeMetricFamily("mq9_meta_role", "1 for the role this node has.", labels=["role"])
        for each in ROLES:
            role.add_metric([each], status.role == each)
        yield role
        yield GaugeMetricFamily("mq9_meta_peers_connected", "Other meta nodes this one is connected to.", len(status.connected))
        yield CounterMetricFamily("mq9_meta_fsyncs", "Transactions made durable.", status.fsyncs)
        yield CounterMetricFamily("mq9_meta_proposals", "Commands this node was asked to get agreed.", self._sources.proposals())
        yield from self._cluster()

    def _cluster(self) -> Iterator[Metric]:
        view = self._sources.view()
        brokers = GaugeMetricFamily("mq9_meta_brokers", "Brokers by state.", labels=["state"])
        for state in (meta.ALIVE, meta.FENCED, meta.DRAINING):
            count = sum(broker.state == state for broker in view.brokers.values())
            brokers.add_metric([meta.BrokerState.Name(state).lower()], count)
        yield brokers
        found = summary(view.config, view.brokers.values(), view.slots.values())
        yield GaugeMetricFamily("mq9_meta_slots", "Slots of the cluster.", len(view.slots))
        for name, doc in _SLOTS.items():
            yield GaugeMetricFamily(f"mq9_meta_slots_{name}", doc, len(getattr(found, name)))
