"""Prometheus metrics: counters are read when they are asked for, so that a message pays nothing for them.

No label ever holds a mail address, a subject or a client: their number has no bound.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mq9 import __version__
from mq9.storage.commit import CHANGES_BUCKETS, SYNC_BUCKETS_S

if TYPE_CHECKING:
    from broker_node.server import Server

# name of the counter -> (metric, what it counts)
TRAFFIC: Final = {
    "connections": ("mq9_connections_accepted", "Connections accepted, refused ones included."),
    "refused_connections": ("mq9_connections_refused", "Connections closed at once because of a limit, or because others serve."),
    "in_msgs": ("mq9_messages_in", "Messages published by clients, commands included."),
    "out_msgs": ("mq9_messages_out", "Messages given to clients, replies included."),
    "in_bytes": ("mq9_bytes_in", "Bytes read from clients."),
    "out_bytes": ("mq9_bytes_out", "Bytes written to clients."),
    "auth_failures": ("mq9_auth_failures", "Connections with wrong credentials."),
    "protocol_errors": ("mq9_protocol_errors", "Connections closed because of what they sent."),
    "permission_violations": ("mq9_permission_violations", "Refused publishes and subscriptions."),
    "no_responders": ("mq9_no_responders", "Requests that nobody listened to."),
    "slow_consumers": ("mq9_slow_consumers", "Connections closed because too much was waiting for them."),
    "stale_connections": ("mq9_stale_connections", "Connections closed because pings were not answered."),
    "write_timeouts": ("mq9_write_timeouts", "Connections closed because their socket took nothing."),
}


# what a member of a cluster says of itself (cluster/node.py, `stats`) -> (metric, what it is)
CLUSTER: Final = {
    "lease": ("mq9_cluster_lease", "1 while the lease of a member of a cluster holds, 0 while it serves nothing."),
    "cut_off": ("mq9_cluster_cut_off", "1 while clients are sent to other brokers, because those may serve and this one cannot."),
    "brokers_alive": ("mq9_cluster_brokers_alive", "Brokers whose sessions last, by the newest view."),
    "peers_up": ("mq9_cluster_peers_up", "Brokers there is a link to."),
    "slots_led": ("mq9_cluster_slots_led", "Slots this broker leads."),
    "slots_served": ("mq9_cluster_slots_served", "Slots it serves: those it leads with enough replicas, while its lease holds."),
    "slots_followed": ("mq9_cluster_slots_followed", "Slots it is a replica of."),
}


class BrokerCollector(Collector):
    """Everything this process counts."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read a server that is not up yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("mq9_build", "This build.", {"version": __version__, "python": platform.python_version()})
        yield GaugeMetricFamily("mq9_uptime_seconds", "Time since start.", self._server.uptime_s())
        yield from self._clients()
        yield from self._commands()
        yield from self._commits()
        yield from self._store()
        yield from self._cluster()

    def _clients(self) -> Iterator[Metric]:
        hub, sublist = self._server.hub, self._server.broker.core.sublist
        yield GaugeMetricFamily("mq9_connections", "Clients connected.", len(hub.sessions))
        yield GaugeMetricFamily("mq9_connections_limit", "Most clients at once.", hub.max_connections)
        yield GaugeMetricFamily("mq9_connections_unauthenticated", "Clients that have not sent CONNECT.", len(hub.waiting))
        yield GaugeMetricFamily("mq9_subscriptions", "Subscriptions.", len(sublist))
        totals = self._server.totals()
        for name, (metric, doc) in TRAFFIC.items():
            yield CounterMetricFamily(metric, doc, totals[name])
        yield CounterMetricFamily("mq9_route_cache_hits", "Published subjects whose receivers were known.", sublist.hits)
        yield CounterMetricFamily("mq9_route_cache_misses", "Published subjects that had to be looked up.", sublist.misses)

    def _commands(self) -> Iterator[Metric]:
        counters = self._server.broker.counters
        for name in counters.__slots__:
            doc = f"{name.replace('_', ' ').capitalize()}, since start."
            yield CounterMetricFamily(f"mq9_{name}", doc, getattr(counters, name))

    def _commits(self) -> Iterator[Metric]:
        commit = self._server.broker.commit
        stats = commit.stats
        yield CounterMetricFamily("mq9_commits", "Transactions made durable.", stats.commits)
        yield CounterMetricFamily("mq9_commit_failures", "Transactions that failed.", stats.failures)
        yield CounterMetricFamily("mq9_commit_bytes", "Bytes of rows made durable.", stats.bytes)
        yield CounterMetricFamily("mq9_commit_seconds", "Time spent in commits.", stats.commit_sum_s)
        yield _histogram(
            "mq9_commit_sync_seconds", "Wait for the disk in one commit.", SYNC_BUCKETS_S, stats.sync_counts, stats.sync_sum_s
        )
        yield _histogram("mq9_commit_rows", "Rows of one commit.", CHANGES_BUCKETS, stats.changes_counts, stats.changes)
        yield GaugeMetricFamily("mq9_staged_bytes", "Bytes waiting for a commit.", commit.staged_bytes)

    def _store(self) -> Iterator[Metric]:
        stat = self._server.broker.store.stat()
        yield GaugeMetricFamily("mq9_store_used_bytes", "Bytes of the store in use.", stat.used_bytes)
        yield GaugeMetricFamily("mq9_store_file_bytes", "Bytes of the store's files.", stat.file_bytes)
        yield GaugeMetricFamily("mq9_disk_free_bytes", "Bytes free on the store's disk.", stat.disk_free_bytes)
        yield GaugeMetricFamily("mq9_store_writable", "1 while new messages are accepted, 0 when storage is full.", stat.writable)

    def _cluster(self) -> Iterator[Metric]:
        """Without a value outside a cluster."""
        node = self._server.node
        stats = node.stats() if node is not None else {}
        for name, (metric, doc) in CLUSTER.items():
            value = stats.get(name)
            yield GaugeMetricFamily(metric, doc, len(value) if isinstance(value, list) else value)


def _histogram(name: str, doc: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> Metric:
    """A histogram from counts per bucket, the last of them beyond all bounds."""
    cumulative = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, map(float, bounds)), "+Inf"), counts, strict=True):
        cumulative += count
        buckets.append((bound, cumulative))
    return HistogramMetricFamily(name, doc, buckets=buckets, sum_value=total)


def registry_of(server: Server) -> CollectorRegistry:
    """A registry with this server's metrics and the process's (CPU, memory, descriptors)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(BrokerCollector(server))
    ProcessCollector(registry=registry)
    return registry
