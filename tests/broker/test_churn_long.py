"""A hundred thousand connections that come and go: descriptors and memory end where they began."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw import RawClient
from tests.support.server import HOST, ServerProcess

CONNECTIONS = int(os.environ.get("MQ9_TEST_CONNECTIONS", "100000"))
ROUND = 2000
NO_LINGER = struct.pack("ii", 1, 0)


def _resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * (os.sysconf("SC_PAGESIZE") // 1024)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _come_and_go(server: ServerProcess, number: int) -> None:
    """Every fourth says goodbye in the middle of something, by a reset."""
    client = RawClient(HOST, server.port)
    client.connect()
    client.sub(b"_INBOX.%d.*" % number)
    if number % 4:
        client.pub(b"_INBOX.%d.1" % number, b"x" * 100)
        assert len(client.flush()) == 1
    else:
        client.send(b"PUB a 100\r\nhalf")
        client.socket.setsockopt(1, 13, NO_LINGER)  # SOL_SOCKET, SO_LINGER
    client.close()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads the server's descriptors from /proc")
def test_connections_that_come_and_go_leave_nothing(start_server: Any) -> None:
    server: ServerProcess = start_server()
    held: list[tuple[int, int]] = []
    with ThreadPoolExecutor(8) as threads:
        for begin in range(0, CONNECTIONS, ROUND):
            list(threads.map(lambda number: _come_and_go(server, number), range(begin, min(begin + ROUND, CONNECTIONS))))
            server.raw().flush()
            server.close_clients()
            held.append((_descriptors(server.pid), _resident_kib(server.pid)))
    early, late = held[len(held) // 4], held[-1]
    print(f"descriptors {early[0]} -> {late[0]}, resident {early[1]} -> {late[1]} KiB over {CONNECTIONS} connections")  # noqa: T201
    assert late[0] <= early[0] + 8
    assert late[1] <= early[1] * 1.1 + 4096
