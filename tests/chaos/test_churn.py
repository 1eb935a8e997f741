"""Clients that come and go by the thousand, most of them in the middle of something: they leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_node.connection import Connection
from broker_node.mailbox.fetching import Waiter
from broker_node.mailbox.pushing import Push
from broker_node.router.sublist import Subscription
from broker_node.session import Session
from tests.broker.hosted import Hosted
from tests.chaos.link import Link
from tests.chaos.tally import report

WAVE = 100  # connections at once
CLIENTS = 800
LONG_CLIENTS = 100_000
STORED = 300
OF_A_CLIENT = (Connection, Session, Subscription, Waiter, Push)


@pytest.fixture
def host() -> Iterator[Hosted]:
    """A server with two mailboxes of stored messages, in a thread of this process."""
    hosted = Hosted(embedding="none")
    client = hosted.raw()
    for mailbox in ("box", "busy"):
        client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": mailbox, "public": True})
        for number in range(STORED):
            client.pub(b"$mq9.AI.MSG.SEND." + mailbox.encode(), b"%d " % number + b"x" * 1000)
    client.flush()
    client.close()
    yield hosted
    hosted.stop()


def fetch(link: Link, done: Callable[[bytes | None], None], **body: Any) -> None:
    link.ask("MSG.FETCH.box", json.dumps(body).encode(), done=done)


def wait(link: Link, done: Callable[[bytes | None], None]) -> None:
    """Two waits of a minute, of a group and of nobody; neither is answered."""
    for group in ("", "waiting"):
        fetch(link, ignore, group_name=group, deliver="latest", tags=["none"], config={"max_wait_ms": 60_000})
    link.ask("MAILBOX.INFO.box", b"", done=done)


def lease(link: Link, done: Callable[[bytes | None], None]) -> None:
    fetch(link, done, group_name="workers", deliver="earliest", config={"num_msgs": 10, "max_wait_ms": 0})


def stream(link: Link, done: Callable[[bytes | None], None]) -> None:
    """Gone after the first of many messages."""
    fetch(link, done, deliver="from_id", from_id=1, config={"num_msgs": 300, "stream": True})


def replay(link: Link, done: Callable[[bytes | None], None]) -> None:
    """Gone after the first of many pushed messages."""
    link.subscribe("$mq9.AI.MAILBOX.MSG.box.*", "", lambda header, payload: done(payload))


def replay_to_group(link: Link, done: Callable[[bytes | None], None]) -> None:
    link.subscribe("$mq9.AI.MAILBOX.MSG.busy.*", f"crew{link.number % 20}", lambda header, payload: done(payload))
    link.ask("MSG.SEND.busy", b"more", done=ignore)


def send_and_go(link: Link, done: Callable[[bytes | None], None]) -> None:
    for _ in range(20):
        link.ask("MSG.SEND.box", b"unheard", {"mq9-ttl": "1"}, done=done)


def watch_directory(link: Link, done: Callable[[bytes | None], None]) -> None:
    link.subscribe("$mq9.AI.PUBLIC.LIST", "", lambda header, payload: done(payload))


def stop_half_way(link: Link, done: Callable[[bytes | None], None]) -> None:
    link.ask("MAILBOX.INFO.box", b"", done=done)
    link.say(b"PUB $mq9.AI.MSG.SEND.box 500\r\nhalf a")


def ignore(payload: bytes | None) -> None:
    """Nobody hears it."""


DEEDS = (wait, lease, stream, replay, replay_to_group, send_and_go, watch_directory, stop_half_way)


async def come_and_go(port: int, number: int) -> None:
    """Connect, begin something, and go when the first answer comes; every third time by a reset."""
    link = await Link.dial(port)
    heard = asyncio.Event()
    DEEDS[number % len(DEEDS)](link, lambda payload: heard.set())
    async with asyncio.timeout(30):
        await heard.wait()
        (link.abort if number % 3 else link.close)()
        await link.closed


async def churn(port: int, clients: int) -> None:
    for begin in range(0, clients, WAVE):
        await asyncio.gather(*(come_and_go(port, number) for number in range(begin, min(begin + WAVE, clients))))


def left_over(host: Hosted) -> dict[str, int]:
    """What the server still holds of clients: by name, and objects by type. All of it is zero when nobody is there."""
    broker, hub = host.server.broker, host.server.hub
    part = broker.partition
    mailboxes = list(part.mailboxes.active.values())
    groups = [group for mailbox in mailboxes for group in mailbox.groups.values()]
    return {
        "sessions": len(hub.sessions),
        "closing": len(hub.closing),
        "stalled": len(hub.stalled),
        "routes": len(broker.core.sublist),
        "waiting": part.fetching.waiting,
        "waiters": len(part.fetching.waiters_of) + sum(len(mailbox.waiters) for mailbox in mailboxes),
        "places": len(part.fetching.groups_of),
        "leases": sum(len(group.leases) for group in groups),
        "pushes": len(part.pushing.by_client) + len(part.pushing.by_address),
        "staged": sum(mailbox.staged_ops + mailbox.staged_acks for mailbox in mailboxes),
    }


def quiet(host: Hosted) -> dict[str, int]:
    """`left_over`, once the server has seen the last of the clients go, for which it has half a minute."""
    patience = time.monotonic() + 30
    while any((left := host.on_loop(lambda: left_over(host))).values()) and time.monotonic() < patience:
        pass  # each look is a turn of the server's loop
    return left


def objects() -> dict[str, int]:
    gc.collect()
    alive = gc.get_objects()
    return {kind.__name__: sum(type(each) is kind for each in alive) for kind in OF_A_CLIENT}


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * (os.sysconf("SC_PAGESIZE") // 1024)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def churned(host: Hosted, clients: int) -> None:
    others = objects()  # what earlier tests of this process left is theirs
    asyncio.run(churn(host.port, clients // 4))
    assert not any(quiet(host).values()), quiet(host)
    before = descriptors(), resident_kib(), host.on_loop(lambda: len(host.server.broker.partition.mailboxes.timers))
    asyncio.run(churn(host.port, clients - clients // 4))
    left = quiet(host)
    after = descriptors(), resident_kib(), host.on_loop(lambda: len(host.server.broker.partition.mailboxes.timers))
    there = objects()
    report(f"churn of {clients} clients: descriptors, resident KiB, timers", f"{before} -> {after}", left, there)
    assert not any(left.values()), left
    assert all(there[kind] <= others[kind] for kind in there), (others, there)
    assert after[0] <= before[0]
    assert after[2] <= before[2]
    assert after[1] <= before[1] * 1.1 + 16 * 1024


def test_clients_that_go_in_the_middle_of_something_leave_nothing(host: Hosted) -> None:
    churned(host, CLIENTS)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_such_clients_leave_nothing(host: Hosted) -> None:
    churned(host, LONG_CLIENTS)
