"""The JSON pages: the names and types of nats-server's, so that its tools (nats-top, exporters) read ours.

Every list is paged and bounded. Nothing here shows a password, a token or a payload.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mq9 import __version__, limits
from mq9.monitor.http import BadQuery

if TYPE_CHECKING:
    from broker_node.router.sublist import Subscription
    from broker_node.server import Server
    from broker_node.session import Session

Page = dict[str, Any]


def page_of(query: Mapping[str, str]) -> tuple[int, int]:
    """(offset, limit) of a request."""
    return _number(query, "offset", 0, 0, 1 << 31), _number(query, "limit", limits.MONITOR_PAGE_MAX, 1, limits.MONITOR_PAGE_MAX)


def _number(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) < low:
        raise BadQuery(f"{name} must be a whole number from {low} to {high}")
    return min(int(text), high)


def healthz(server: Server) -> Page:
    """`status` is ok, or unavailable with the reason in `error`."""
    if server.is_draining:
        return {"status": "unavailable", "error": "draining"}
    if failure := server.broker.health() or (server.node.health() if server.node is not None else ""):
        return {"status": "unavailable", "error": failure}
    return {"status": "ok"}


def varz(server: Server) -> Page:
    """The server as a whole."""
    settings, hub, traffic = server.settings, server.hub, server.totals()
    uptime_s = server.uptime_s()
    cluster: Page = {"cluster": server.node.stats()} if server.node is not None else {}
    return {
        "server_id": server.server_id,
        "server_name": hub.info["server_name"],
        "version": hub.info["version"],
        "mq9_version": __version__,
        "proto": 1,
        "host": settings.host,
        "port": server.port,
        "auth_required": hub.auth.required,
        "tls_required": bool(settings.tls_cert),
        "tls_verify": settings.tls_verify,
        "http_host": settings.monitor_host,
        "http_port": server.monitor_port,
        "max_connections": hub.max_connections,
        "max_subscriptions": settings.max_subscriptions,
        "max_payload": settings.max_payload,
        "max_pending": settings.max_pending,
        "max_control_line": limits.CONTROL_LINE_BYTES_MAX,
        "auth_timeout": hub.timing.authenticate_s,
        "tls_timeout": hub.timing.handshake_s,
        "write_deadline": _nanoseconds(settings.write_deadline_s),
        "ping_interval": _nanoseconds(settings.ping_interval_s),
        "ping_max": settings.max_pings_out,
        "start": _time(server, -uptime_s),
        "now": _time(server, 0),
        "uptime": duration(uptime_s),
        "mem": resident_bytes(),
        "cores": os.cpu_count() or 1,
        "cpu": round(100 * sum(os.times()[:2]) / max(uptime_s, 1.0), 2),
        "connections": len(hub.sessions),
        "total_connections": traffic["connections"],
        "routes": 0,
        "remotes": 0,
        "leafnodes": 0,
        "in_msgs": traffic["in_msgs"],
        "out_msgs": traffic["out_msgs"],
        "in_bytes": traffic["in_bytes"],
        "out_bytes": traffic["out_bytes"],
        "slow_consumers": traffic["slow_consumers"],
        "stale_connections": traffic["stale_connections"],
        "subscriptions": len(server.broker.core.sublist),
        **cluster,
    }


def connz(server: Server, query: Mapping[str, str]) -> Page:
    """The clients, oldest first; with `subs=1` their subscriptions."""
    offset, limit = page_of(query)
    sessions = server.hub.sessions
    cid = _number(query, "cid", 0, 0, 1 << 62)
    chosen = list(islice(sessions.values(), offset, offset + limit)) if not cid else [sessions[cid]] if cid in sessions else []
    with_subs = query.get("subs", "") not in {"", "0", "false"}
    return {
        "server_id": server.server_id,
        "now": _time(server, 0),
        "num_connections": len(chosen),
        "total": len(sessions),
        "offset": offset,
        "limit": limit,
        "connections": [_connection(server, session, with_subs=with_subs) for session in chosen],
    }


def _connection(server: Server, session: Session, *, with_subs: bool) -> Page:
    now = server.clock.monotonic_s()
    age_s = now - session.started_s
    idle_s = session.idle_s(now)
    row: Page = {
        "cid": session.id,
        "kind": "Client",
        "type": "nats",
        "ip": session.address,
        "port": session.port,
        "start": _time(server, -age_s),
        "last_activity": _time(server, -idle_s),
        "uptime": duration(age_s),
        "idle": duration(idle_s),
        "pending_bytes": session.link.pending,
        "in_msgs": session.in_msgs,
        "out_msgs": session.out_msgs,
        "in_bytes": session.in_bytes,
        "out_bytes": session.link.out_bytes,
        "subscriptions": len(session.subscriptions),
    }
    named = {"name": session.name, "lang": session.lang, "version": session.version}
    row |= {key: value for key, value in named.items() if value}
    tls = session.link.tls_info()
    if tls is not None:
        row["tls_version"], row["tls_cipher_suite"] = tls
    if with_subs:
        row["subscriptions_list"] = [_text(sub.subject) for sub in session.subscriptions]
    return row


def subsz(server: Server, query: Mapping[str, str]) -> Page:
    """The routing table; with `subs=1` its entries."""
    offset, limit = page_of(query)
    sublist = server.broker.core.sublist
    looked_up = sublist.hits + sublist.misses
    page: Page = {
        "server_id": server.server_id,
        "now": _time(server, 0),
        "num_subscriptions": len(sublist),
        "num_cache": sublist.cached,
        "num_inserts": sublist.inserts,
        "num_removes": sublist.removes,
        "num_matches": looked_up,
        "cache_hit_rate": round(sublist.hits / looked_up, 6) if looked_up else 0.0,
        "total": len(sublist),
        "offset": offset,
        "limit": limit,
    }
    if query.get("subs", "") not in {"", "0", "false"}:
        subs = ((session, sub) for session in server.hub.sessions.values() for sub in session.subscriptions)
        page["subscriptions_list"] = [_subscription(session, sub) for session, sub in islice(subs, offset, offset + limit)]
    return page


def _subscription(session: Session, sub: Subscription) -> Page:
    row: Page = {"subject": _text(sub.subject), "sid": _text(sub.sid), "msgs": sub.delivered, "cid": session.id}
    if sub.queue:
        row["qgroup"] = _text(sub.queue)
    if sub.limit:
        row["max"] = sub.limit
    return row


def duration(seconds: float) -> str:
    """As nats-server writes it: 1d2h3m4s, without the leading parts that are zero."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return "".join(parts)


def resident_bytes() -> int:
    """Memory of this process that is in RAM, now; where the system does not tell, at its peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB everywhere else


def _time(server: Server, offset_s: float) -> str:
    """RFC 3339, UTC."""
    moment = datetime.fromtimestamp(server.clock.wall_ms() / 1000 + offset_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
