"""The end of a broker under a pushed queue group with members on all brokers: stopped, it loses and repeats nothing; killed,
it loses nothing and hands out nothing again that does not say so.

How much is repeated after a kill is reported, not held: who takes the group over knows only what was claimed and what was
confirmed (docs/decisions/0006).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.chaos.tally import report
from tests.cluster.checker import pause
from tests.cluster.processes import Cluster
from tests.meta.cluster import until
from tests.push.mail import PUSHED, difference, fill, frames_to_end, is_marked, make, member, numbers
from tests.support.raw import Closed, Frame, RawClient, header_block
from tests.support.server import ServerProcess

pytestmark = pytest.mark.anyio

BOX: Final = "work"
LARGE_BYTES: Final = 32 * 1024  # a hundred of these are several times what is pushed ahead of a member elsewhere
BACKLOG: Final = 3000  # jobs that are there when a round begins; more come all the time
AT_ONCE: Final = 50
ROUNDS: Final = 2
DONE_S: Final = 30.0
End = Callable[[ServerProcess], int]


class Patient(Cluster):
    """Brokers that stop as slowly as they have to."""

    command = [sys.executable, "-m", "tests.cluster.programs", "patience"]  # noqa: RUF012  # as of the base


class Outcome(NamedTuple):
    lost: list[int]
    unmarked_again: list[int]  # jobs that came more than once without saying so
    twice: int
    marked: int


def outcome(stored: Iterable[int], frames: list[Frame]) -> Outcome:
    lost, twice = difference(stored, numbers(frames))
    unmarked = Counter(numbers(frame for frame in frames if not is_marked(frame)))
    again = sorted(number for number, times in unmarked.items() if times > 1)
    return Outcome(lost, again, len(twice), sum(map(is_marked, frames)))


def read(client: RawClient, frames: list[Frame]) -> None:
    """Take what comes until the server is gone, or answers a PING."""
    try:
        while (frame := client.next_frame()).verb != b"PONG":
            frames.append(frame)
    except Closed:
        return


def feed(broker: ServerProcess, jobs: Iterator[int], is_over: threading.Event) -> None:
    """Store job after job. Each has an idempotency id, so it is asked for again wherever its mailbox has gone."""
    client = broker.raw()
    subject = b"$mq9.AI.MSG.SEND." + BOX.encode()
    while not is_over.is_set():
        for number in islice(jobs, AT_ONCE):
            client.pub(subject, b"%d" % number, header=header_block({"mq9-msg-id": str(number)}))
        client.call(b"$mq9.AI.MAILBOX.INFO." + BOX.encode())  # no faster than it is answered


async def info(asked: RawClient) -> dict[str, Any]:
    return await asyncio.to_thread(asked.call, b"$mq9.AI.MAILBOX.INFO." + BOX.encode())


async def is_done(asked: RawClient) -> bool:
    """Whether the group has confirmed everything."""
    groups = (await info(asked)).get("groups", ())
    return [group["lag"] for group in groups if group["name"] == "workers"] == [0]


async def work_and_end(cluster: Cluster, jobs: Iterator[int], victim: ServerProcess, end: End) -> list[Frame]:
    """Let a group work, end a broker, and let the group work on until it has done everything."""
    left = [broker for broker in cluster.running if broker is not victim]
    await asyncio.to_thread(fill, victim, BOX, islice(jobs, BACKLOG))
    got: list[Frame] = []
    is_over = threading.Event()
    with ThreadPoolExecutor(4) as beside:
        feeding = beside.submit(feed, left[0], jobs, is_over)
        members = {broker: member(broker, BOX, b"workers")[0] for broker in cluster.running}
        reading = [beside.submit(read, each, got) for each in members.values()]
        while len(got) < BACKLOG // 3:
            await pause(0.001)
        try:
            assert await asyncio.to_thread(end, victim) in {0, -signal.SIGKILL}
        finally:
            is_over.set()
            await asyncio.to_thread(feeding.result)
        asked = left[1].raw()
        await until("the group to have done everything", lambda: is_done(asked), DONE_S)
        for broker in left:
            members[broker].send(b"PING\r\n")
        for each in reading:
            await asyncio.to_thread(each.result)
    for broker in cluster.brokers.values():
        broker.close_clients()
    await asyncio.to_thread(victim.start)
    await cluster.settled()
    return got


def read_all(broker: ServerProcess, stored: int) -> list[int]:
    """What is stored."""
    client = broker.raw()
    client.sub(PUSHED + BOX.encode() + b".*")
    found: list[int] = []
    while len(found) < stored:
        found += numbers([client.next_frame()])
    return found


async def rounds_of(directory: Path, end: End, *, is_owner: bool = True) -> Outcome:
    """Work and end, again and again: the broker that leads the group, or another that has a member."""
    jobs = count()
    got: list[Frame] = []
    async with Cluster(directory, metas=1) as cluster:
        await asyncio.to_thread(make, cluster.brokers["b0"], BOX)
        for _ in range(ROUNDS):
            owner = await cluster.owner(BOX)
            victim = owner if is_owner else next(name for name in cluster.names if name != owner)
            got += await work_and_end(cluster, jobs, cluster.brokers[victim], end)
        broker = cluster.brokers["b0"]
        stored = await asyncio.to_thread(read_all, broker, (await info(broker.raw()))["messages"])
    found = outcome(stored, got)
    lost, again, twice, marked = len(found.lost), len(found.unmarked_again), found.twice, found.marked
    title = f"queue group on 3 brokers, {ROUNDS} ends of {'its owner' if is_owner else 'another'}, {len(stored)} jobs"
    report(title, f"lost {lost}", f"again unmarked {again}", f"twice {twice}", f"marked {marked}")
    return found


@pytest.mark.parametrize("is_owner", [True, False], ids=["owner", "other"])
async def test_a_broker_that_is_killed_loses_nothing_and_what_comes_again_says_so(tmp_path: Path, is_owner: bool) -> None:
    found = await rounds_of(tmp_path, ServerProcess.kill, is_owner=is_owner)
    assert (found.lost, found.unmarked_again) == ([], [])


@pytest.mark.parametrize("is_owner", [True, False], ids=["owner", "other"])
async def test_a_broker_that_is_stopped_loses_and_repeats_nothing(tmp_path: Path, is_owner: bool) -> None:
    """Of a stopped owner's members elsewhere it was not known what they had taken, and that came again."""
    assert await rounds_of(tmp_path, ServerProcess.stop, is_owner=is_owner) == ([], [], 0, 0)


async def test_a_broker_that_stops_waits_for_a_member_elsewhere_that_reads_slowly(tmp_path: Path) -> None:
    got: list[Frame] = []
    async with Patient(tmp_path, metas=1) as cluster:
        await asyncio.to_thread(make, cluster.brokers["b0"], BOX)
        owner = cluster.brokers[await cluster.owner(BOX)]
        other = next(broker for broker in cluster.running if broker is not owner)
        slow, _ = member(other, BOX, b"workers", is_slow=True)
        await asyncio.to_thread(slow.flush)
        await asyncio.to_thread(fill, owner, BOX, range(100), LARGE_BYTES)
        near = owner.raw()
        stopping = asyncio.create_task(asyncio.to_thread(owner.stop))
        await asyncio.to_thread(frames_to_end, near)
        await pause(0.5)  # without the wait the group has another broker by then
        reading = asyncio.create_task(asyncio.to_thread(read, slow, got))
        assert await stopping == 0
        asked = other.raw()
        await until("the group to have done everything", lambda: is_done(asked), DONE_S)
        slow.send(b"PING\r\n")
        await reading
    assert outcome(range(100), got) == ([], [], 0, 0)
