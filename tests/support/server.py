"""A real `mq9 server` process on free ports of 127.0.0.1, with its own data directory.

    server = ServerProcess(tmp_path, max_payload=2048)
    server.start()
    ... server.url, server.port, server.monitor_url, server.data_dir, server.pid ...
    server.kill(); server.start()      # a crash and a restart on the same data and the same port
    server.stop()                      # SIGTERM, waits, returns the exit code

Tests normally take the fixtures of `tests/conftest.py` instead: `server`, `shared_server`, `start_server`.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mq9 import settings
from tests.support.process import START_TIMEOUT_S, Process, StartError
from tests.support.raw import RawClient

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"

# The same process that `mq9 server` is, without the command line's import time.
COMMAND = [sys.executable, "-m", "broker_node"]

# What differs from a user's server: free ports, a short goodbye, and no refusal on a developer's nearly full disk.
TEST_SETTINGS: dict[str, object] = {
    "host": HOST,
    "port": 0,
    "monitor_host": HOST,
    "monitor_port": 0,
    "lame_duck_grace_s": 0.05,
    "lame_duck_close_s": 0.05,
    "disk_reserve": 0,
}

READY = re.compile(
    r"mq9 (?P<version>\S+) ready nats://(?P<host>[^:\s]+):(?P<port>\d+)"
    r" monitor=(?:off|http://[^:\s]+:(?P<monitor_port>\d+)) data=(?P<data>.+?)"
    r"(?: websocket=(?P<websocket>wss?://\S+))?(?: node=(?P<node>\S+) peer=(?P<peer>\S+))?\n"
)


@dataclass(frozen=True, slots=True)
class Ready:
    """What the ready line says. `monitor_port` is None when monitoring is off, `websocket` when that is; the last two are
    those of a broker in a cluster."""

    version: str
    port: int
    monitor_port: int | None
    data: str
    websocket: str | None
    node: str | None = None
    peer: str | None = None


def parse_ready(line: str) -> Ready:
    """The ready line as a record. Raises AssertionError when it is not one."""
    match = READY.fullmatch(line)
    assert match, f"not a ready line: {line!r}"
    monitor = match["monitor_port"]
    return Ready(
        match["version"], int(match["port"]), int(monitor) if monitor else None, match["data"], match["websocket"],
        match["node"], match["peer"],
    )  # fmt: skip


def environment(values: dict[str, object]) -> dict[str, str]:
    """This process's environment with every MQ9_ and NATS_ variable taken out and `values` put in as MQ9_ variables."""
    unknown = values.keys() - settings.FIELDS.keys()
    assert not unknown, f"no such settings: {sorted(unknown)}"
    env = {name: value for name, value in os.environ.items() if not name.startswith((settings.ENV_PREFIX, "NATS_"))}
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH", ""))))
    for name, value in values.items():
        env[settings.env(name)] = str(value).lower() if isinstance(value, bool) else str(value)
    return env


class ServerProcess:
    """One broker and its data directory, over as many starts, stops and crashes as a test needs."""

    def __init__(self, directory: Path, *, command: list[str] | None = None, **values: Any) -> None:
        """`values` are fields of mq9.settings.Settings. The data directory is `directory/data` unless they say otherwise."""
        self.values = {**TEST_SETTINGS, "data_dir": str(directory / "data"), **values}
        self.data_dir = Path(str(self.values["data_dir"]))
        self._command = command or COMMAND
        self._log_path = directory / "server.log"
        self._process: Process | None = None
        self._ready: Ready | None = None
        self._clients: list[RawClient] = []

    def start(self, timeout_s: float = START_TIMEOUT_S) -> ServerProcess:
        """Start it and wait for the ready line. Raises StartError (with exit code and log) when it does not come."""
        self._process = Process(self._command, self._log_path, environment(self.values))
        self._process.spawn()
        self._ready = parse_ready(self._process.read_line(timeout_s))
        self._process.drain_output()
        # Later starts take the same ports again, as a server that is restarted does: clients reconnect to it.
        self.values["port"] = self._ready.port
        if self._ready.monitor_port is not None:
            self.values["monitor_port"] = self._ready.monitor_port
        return self

    def start_error(self) -> StartError:
        """Start it expecting a refusal; what it said."""
        try:
            self.start()
        except StartError as refusal:
            return refusal
        raise AssertionError("the server started")

    @property
    def ready(self) -> Ready:
        assert self._ready is not None, "not started"
        return self._ready

    @property
    def process(self) -> Process:
        assert self._process is not None, "not started"
        return self._process

    @property
    def host(self) -> str:
        return str(self.values["host"])

    @property
    def port(self) -> int:
        return self.ready.port

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor_urls(self) -> list[str]:
        """Of all processes that are this server."""
        return [self.monitor_url]

    @property
    def monitor_url(self) -> str:
        assert self.ready.monitor_port is not None, "monitoring is off"
        return f"http://{self.host}:{self.ready.monitor_port}"

    @property
    def websocket_url(self) -> str | None:
        """Where WebSocket clients connect to; None when that is off."""
        return self.ready.websocket

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def stop(self) -> int:
        """SIGTERM and wait; the exit code, which is 0 for a server that drained."""
        return self.process.stop()

    def kill(self) -> int:
        """SIGKILL: the crash of the durability tests."""
        return self.process.kill()

    def restart(self, **values: Any) -> ServerProcess:
        """Stop it if it runs, and start it again on the same data and ports, with `values` changed."""
        if self.running:
            code = self.stop()
            assert code == 0, f"exit code {code}; log:\n{self.log}"
        self.values.update(values)
        return self.start()

    def raw(self, *, connect: bool = True, **options: Any) -> RawClient:
        """A socket client; with `connect` it has sent CONNECT with `options` and seen the PONG. The fixtures close it."""
        client = self.dial()
        self._clients.append(client)
        if connect:
            client.connect(**options)
        return client

    def dial(self, *, read_info: bool = True) -> RawClient:
        """A socket client that has said nothing yet, and that whoever asked closes."""
        return RawClient(self.host, self.port, read_info=read_info)

    def close_clients(self) -> None:
        """Close every client that `raw` made."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def check_log(self) -> None:
        """Fail when the log has a traceback: the broker met a bug, whatever the client saw."""
        assert "Traceback (most recent call last)" not in self.log, f"the broker logged a traceback:\n{self.log}"
