"""The real nats-server (from its PyPI package) as the reference that core NATS behaviour is checked against."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.support.process import Process
from tests.support.raw import RawClient

HOST = "127.0.0.1"
LISTENING = re.compile(r"Listening for client connections on \S+:(\d+)")


def binary() -> str | None:
    """The nats-server executable of this virtual environment (or of the machine), or None."""
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return shutil.which("nats-server", path=places)


class NatsServer:
    """One nats-server on a free port, logging to a file in `directory`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        executable = binary()
        assert executable is not None, "nats-server is not installed"
        command = [executable, "-a", HOST, "-p", "-1", *arguments]
        self._process = Process(command, directory / "nats-server.log", dict(os.environ), log_to_output=True)
        self.port = 0
        self._clients: list[RawClient] = []

    def start(self) -> NatsServer:
        self._process.spawn()
        line = ""
        while "Server is ready" not in line:
            line = self._process.read_line()
            if match := LISTENING.search(line):
                self.port = int(match[1])
        self._process.drain_output()
        return self

    @property
    def host(self) -> str:
        return HOST

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    def raw(self, **options: Any) -> RawClient:
        client = RawClient(HOST, self.port)
        self._clients.append(client)
        client.connect(**options)
        return client

    def stop(self) -> int:
        for client in self._clients:
            client.close()
        return self._process.stop()
