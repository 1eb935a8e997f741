"""How long a pushed message takes: from SEND to a hundred subscribers, each on a connection of its own.

    python -m bench.push [--subscribers 100] [--messages 300] [--rate 20] [--json]

Three ways, measured in turn in one run, with the same client (one Python process, so a floor is part of every figure):

    mq9 one mailbox      every subscriber gets every message; it is on disk before the first of them does
    mq9 one each         every subscriber has a mailbox of its own, and the messages go round
    nats-server core     plain publish and subscribe, nothing stored: what the same fan-out costs without a promise
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

from tests.support.nats_server import NatsServer
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"lang":"bench","version":"1","protocol":1}\r\n'
_QUIET_S = 2.0  # without a message for this long, no more will come


class Subscriber(asyncio.Protocol):
    """Connects, subscribes, and notes how old each message is: payloads begin with the time they were sent, in ns."""

    def __init__(self, subject: bytes, note: Callable[[int], None]) -> None:
        self.subject = subject
        self.note = note
        self.buffer = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self.transport.write(_CONNECT + b"SUB %b 1\r\nPING\r\n" % self.subject)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter_ns()
        *lines, self.buffer = (self.buffer + data).split(b"\r\n")
        for line in lines:
            if line.startswith(b"sent="):
                self.note(now - int(line[5:]))
            elif line == b"PONG":
                self.ready.set_result(None)


@dataclass
class Case:
    """One way to measure: where subscribers listen and where senders publish, by number."""

    name: str
    port: int
    listen: Callable[[int], str]
    publish: Callable[[int], str]
    fan_out: bool  # every subscriber gets every message


async def measure(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """Latencies of one case, in microseconds."""
    loop = asyncio.get_running_loop()
    ages: list[int] = []
    everyone: list[Subscriber] = []
    for number in range(options.subscribers):
        subscriber = Subscriber(case.listen(number).encode(), ages.append)
        await loop.create_connection(partial(_as_it_is, subscriber), "127.0.0.1", case.port)
        everyone.append(subscriber)
    await asyncio.gather(*(subscriber.ready for subscriber in everyone))
    sender = Subscriber(b"bench.nobody", ages.append)
    await loop.create_connection(partial(_as_it_is, sender), "127.0.0.1", case.port)
    await sender.ready
    for number in range(options.messages):
        payload = b"sent=%d" % time.perf_counter_ns()
        subject = case.publish(number % options.subscribers).encode()
        sender.transport.write(b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload))
        await asyncio.sleep(1 / options.rate)
    expected = options.messages * (options.subscribers if case.fan_out else 1)
    heard = -1
    while len(ages) < expected and len(ages) != heard:
        heard = len(ages)
        await asyncio.sleep(_QUIET_S)
    for subscriber in (*everyone, sender):
        subscriber.transport.abort()
    ages.sort()
    return {"expected": expected, "got": len(ages), "p50_us": _at(ages, 0.5), "p99_us": _at(ages, 0.99), "max_us": _at(ages, 1)}


def _as_it_is(subscriber: Subscriber) -> Subscriber:
    return subscriber


def _at(ages: list[int], part: float) -> float:
    """The age, in microseconds, that `part` of the sorted ages do not exceed."""
    return ages[min(len(ages) - 1, int(part * len(ages)))] / 1000


def _cases(stack: ExitStack, directory: Path, subscribers: int) -> list[Case]:
    broker = ServerProcess(directory / "mq9").start()
    stack.callback(broker.stop)
    client: RawClient = broker.raw()
    for name in ("all", *(f"own{number}" for number in range(subscribers))):
        client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": name})
    (directory / "nats").mkdir()
    core = NatsServer(directory / "nats").start()
    stack.callback(core.stop)
    listen, send = "$mq9.AI.MAILBOX.MSG.{}.*", "$mq9.AI.MSG.SEND.{}"
    return [
        Case("mq9 one mailbox", broker.port, lambda _: listen.format("all"), lambda _: send.format("all"), fan_out=True),
        Case("mq9 one each", broker.port, lambda n: listen.format(f"own{n}"), lambda n: send.format(f"own{n}"), fan_out=False),
        Case("nats-server core", core.port, lambda _: "bench.all", lambda _: "bench.all", fan_out=True),
    ]


def main() -> None:
    """Measure every case and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20, help="messages a second")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mq9-bench-") as name, ExitStack() as stack:
        cases = _cases(stack, Path(name), options.subscribers)
        results = {case.name: uvloop.run(measure(case, options)) for case in cases}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'':20}{'messages':>10}{'missing':>9}{'p50 us':>9}{'p99 us':>9}{'max us':>9}")
    for case_name, result in results.items():
        missing = result["expected"] - result["got"]
        figures = f"{result['p50_us']:>9.0f}{result['p99_us']:>9.0f}{result['max_us']:>9.0f}"
        print(f"{case_name:20}{result['got']:>10.0f}{missing:>9.0f}{figures}")


if __name__ == "__main__":
    main()
