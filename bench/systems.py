"""What `bench.cluster` asks of the systems it compares, and what both need for that."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bench.broker import LoadFailed, cpu_s
from tests.support.raw import Closed, RawClient

HOST: Final = "127.0.0.1"
PLACES: Final = ("leader", "other")  # where the load connects: the node that leads what it uses, or another one
READY_S: Final = 60.0  # a cluster, or what is made in it, that is not ready by then will not be
POLL_S: Final = 0.1
ANSWER_S: Final = 5.0  # of one request; then it is made again


@dataclass(frozen=True, slots=True)
class Box:
    """A mailbox, or a stream. `ports`: of the node to connect to, by place."""

    name: str
    ports: dict[str, int]


class System(Protocol):
    """Three nodes that store everything three times."""

    name: str

    def pids(self) -> list[int]:
        """All its processes."""
        ...

    def boxes(self, count: int) -> list[Box]:
        """New mailboxes, led by all nodes in turn."""
        ...

    def add_readers(self, boxes: list[Box]) -> list[Box]:
        """What reading needs and writing does not; the boxes with the ports to read at."""
        ...

    def drop(self, boxes: list[Box]) -> None:
        """Take them away with what is in them."""
        ...

    def send_arguments(self, boxes: list[Box]) -> tuple[str, str]:
        """(subjects, what a good reply holds) for `load send`."""
        ...

    def pull_arguments(self, boxes: list[Box]) -> tuple[str, str]:
        """(mode, what to read) for the pulling modes."""
        ...


def used_s(system: System) -> float:
    """Processor seconds of all its processes so far."""
    return sum(map(cpu_s, system.pids()))


def ask(port: int, subject: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """One request to one node; None when it gives no answer now."""
    try:
        client = RawClient(HOST, port, timeout_s=ANSWER_S)
        try:
            client.connect()
            frame = client.request(subject.encode(), json.dumps(body).encode())
        finally:
            client.close()
    except (OSError, Closed):
        return None
    return None if frame.status else dict(frame.json())


def attempts(what: str, deadline_s: float = READY_S) -> Iterator[None]:
    """Loop over this until it is done: a pause between two turns, and LoadFailed when it takes too long."""
    until_s = time.monotonic() + deadline_s
    while time.monotonic() < until_s:
        yield
        time.sleep(POLL_S)
    raise LoadFailed(f"waited {deadline_s:.0f} s in vain for {what}")
