"""The line a broker prints when it serves: supervisors and tests wait for it, and read ports from it."""

from __future__ import annotations

from pathlib import Path

from broker_node.server import Server
from mq9 import __version__


def ready_line(server: Server) -> str:
    """Where everything is: clients, monitoring, the store, and what is on beyond that."""
    settings = server.settings
    monitor = f"http://{_url_host(settings.monitor_host)}:{server.monitor_port}" if server.monitor_port else "off"
    clients = f"nats://{_url_host(settings.host)}:{server.port}"
    line = f"mq9 {__version__} ready {clients} monitor={monitor} data={Path(settings.data_dir).resolve()}"
    if server.ws_port:
        line += f" websocket={'wss' if settings.tls_cert else 'ws'}://{_url_host(settings.ws_host)}:{server.ws_port}"
    if server.node is not None:
        line += f" node={server.node.node} peer={server.node.membership.peer_address}"
    return line


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host or "0.0.0.0"  # noqa: S104  # says where we listen, does not choose it
