"""How long clients wait when a node is killed: python -m tests.cluster.failover [--kills 20] [--heartbeat-s .5 --lease-s 2.5 ...]

    owner   kill -9 of a broker until the next SEND is acknowledged on the mailboxes it owned, asked of the other brokers
    meta    kill -9 of the leader of the meta service until the next write it acknowledges (a floor of a consumer), and the
            longest that SENDs waited meanwhile

Every SEND is asked again under its mq9-msg-id when it is refused or not answered within a second. Prints each kill, median and
longest. Processes are those of a user: 3 + 3 on this machine, the default settings but for those given.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from mq9.errors import Mq9Error
from mq9.v1 import meta_pb2 as meta
from tests.chaos.link import Link
from tests.cluster.checker import pause
from tests.cluster.processes import TUNED, Cluster

SLOTS: Final = 256
MAILBOXES: Final = tuple(f"box.{number}" for number in range(24))
ANSWER_S: Final = 1.0
DEFAULTS: Final = {"heartbeat_s": 0.5, "lease_s": 2.5, "session_s": 4.0}


async def send(link: Link, mailbox: str, name: str) -> bool:
    """One SEND; whether it was acknowledged."""
    answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def done(payload: bytes | None) -> None:
        if not answer.done():
            answer.set_result(payload)

    link.ask(f"MSG.SEND.{mailbox}", b"x", {"mq9-msg-id": name}, done=done)
    try:
        async with asyncio.timeout(ANSWER_S):
            payload = await answer
    except TimeoutError:
        return False
    return payload is not None and b'"error":""' in payload


async def until_sent(link: Link, mailbox: str, name: str) -> float:
    """SEND until it is acknowledged; when that was."""
    while not await send(link, mailbox, name):
        await pause(0.01)
    return time.monotonic()


async def connect(cluster: Cluster, name: str) -> Link:
    broker = cluster.brokers[name]
    return await Link.dial(broker.port, host=broker.host)


async def create(cluster: Cluster) -> None:
    with cluster.brokers["b0"].dial() as client:
        client.connect()
        for mailbox in MAILBOXES:
            assert not client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": mailbox})["error"]


async def kill_owner(cluster: Cluster, number: int) -> list[float]:
    """For each mailbox of one broker, the time from its death to the next SEND, in seconds."""
    owned = {mailbox: await cluster.owner(mailbox) for mailbox in MAILBOXES}
    name = cluster.names[number % len(cluster.names)]
    mine = [mailbox for mailbox, owner in owned.items() if owner == name]
    others = [each for each in cluster.names if each != name]
    links = [await connect(cluster, others[place % len(others)]) for place in range(len(mine))]
    killed_s = time.monotonic()
    cluster.kill(name)
    sent = [until_sent(link, mailbox, f"owner.{number}") for link, mailbox in zip(links, mine, strict=True)]
    times = [moment_s - killed_s for moment_s in await asyncio.gather(*sent)]
    for link in links:
        link.close()
    await asyncio.to_thread(cluster.start, name)
    await cluster.settled()
    return times


async def kill_meta(cluster: Cluster, number: int) -> tuple[float, float]:
    """From the death of the meta leader to the next write, and the longest that a SEND took meanwhile."""
    leader = await cluster.metas.leader()
    links = [await connect(cluster, name) for name in cluster.names]
    longest_s = 0.0
    is_over = asyncio.Event()

    async def load(link: Link, place: int) -> None:
        nonlocal longest_s
        count = 0
        while not is_over.is_set():
            count += 1
            began_s = time.monotonic()
            sent_s = await until_sent(link, MAILBOXES[place], f"meta.{number}.{place}.{count}")
            longest_s = max(longest_s, sent_s - began_s)

    loads = [asyncio.ensure_future(load(link, place)) for place, link in enumerate(links)]
    await pause(0.2)
    killed_s = time.monotonic()
    cluster.kill(leader)
    async with cluster.client(deadline_s=30) as client:
        while True:
            try:
                await client.commit_offsets(meta.CommitOffsetsRequest(slots=[meta.SlotFloors(slot=0, epoch=0)]))
                break
            except Mq9Error:
                await pause(0.01)
    took_s = time.monotonic() - killed_s
    await pause(0.5)
    is_over.set()
    await asyncio.gather(*loads)
    for link in links:
        link.close()
    await asyncio.to_thread(cluster.start, leader)
    await cluster.settled()
    return took_s, longest_s


def say(what: str, times: list[float]) -> None:
    print(f"{what}: median {median(times):.2f} s, longest {max(times):.2f} s, of {len(times)}", flush=True)  # noqa: T201  # its figures


async def measure(directory: Path, kills: int, settings: dict[str, float]) -> None:
    shown = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    async with Cluster(directory, meta_settings={"slots": SLOTS, **settings}) as cluster:
        await create(cluster)
        owners: list[float] = []
        for number in range(kills):
            times = await kill_owner(cluster, number)
            owners.append(max(times, default=0.0))
            print(f"  kill {number + 1}: {len(times)} mailboxes, {owners[-1]:.2f} s", flush=True)  # noqa: T201  # see above
        metas = [await kill_meta(cluster, number) for number in range(kills)]
    say(f"owner killed ({shown}), until its last mailbox takes a SEND", owners)
    say("meta leader killed, until the next write", [took_s for took_s, _ in metas])
    say("meta leader killed, longest SEND meanwhile", [longest_s for _, longest_s in metas])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.failover", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tuned", action="store_true", help=f"as {TUNED}")
    for name, value in DEFAULTS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=None, help=f"default {value:g}")
    flags = vars(parser.parse_args())
    base = TUNED if flags["tuned"] else DEFAULTS
    settings = {name: flags[name] if flags[name] is not None else base[name] for name in DEFAULTS}
    with tempfile.TemporaryDirectory(prefix="mq9-failover-") as directory:
        asyncio.run(measure(Path(directory), flags["kills"], settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
