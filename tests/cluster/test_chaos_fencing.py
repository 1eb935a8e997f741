"""Nobody answers who may not: step by step, and against brokers that break the rule, which the same steps must find out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.cluster import faults
from tests.cluster.checker import pause
from tests.cluster.processes import Cluster
from tests.support.raw import RawClient

pytestmark = pytest.mark.anyio

BOX = "the.box"
FETCH = b"$mq9.AI.MSG.FETCH." + BOX.encode()
ASK = {"group_name": "g", "deliver": "earliest", "config": {"num_msgs": 100, "max_wait_ms": 0}}
COUNT = 20


class Lawless(Cluster):
    """Brokers that serve on when their lease is over."""

    command = [sys.executable, "-m", "tests.cluster.programs", "lease"]  # noqa: RUF012  # as of the base


class Hasty(Cluster):
    """Brokers that do not wait for their replicas."""

    command = [sys.executable, "-m", "tests.cluster.programs", "replicas"]  # noqa: RUF012  # as of the base


def call(client: RawClient, command: str, body: object = None, **headers: str) -> dict[str, object]:
    return client.call(
        b"$mq9.AI." + command.encode(), body, headers={f"mq9-{k}".replace("_", "-"): v for k, v in headers.items()}
    )


def send(client: RawClient, names: Iterable[str]) -> list[str]:
    """SENDs under these names; those that were acknowledged."""
    return [name for name in names if not call(client, f"MSG.SEND.{BOX}", name.encode(), msg_id=name)["error"]]


def read(client: RawClient, group: str = "g") -> list[str]:
    """What a group is given, and acknowledges: nothing of a mailbox that is lost whole."""
    answer = client.call(FETCH, {**ASK, "group_name": group, "encoding": "text"})
    if answer.get("code") == "MAILBOX_NOT_FOUND":
        return []
    assert not answer["error"], answer
    ids = [message["msg_id"] for message in answer["messages"]]
    if ids:
        assert not call(client, f"MSG.ACK.{BOX}", {"group_name": group, "mode": "single", "msg_ids": ids})["error"]
    return [message["payload"] for message in answer["messages"]]


async def given_by_who_stood_still(cluster: Cluster) -> list[str]:
    """A broker stands still for longer than its session, while all its messages are read elsewhere. What it then gives to
    those who had asked it meanwhile."""
    with cluster.brokers["b0"].dial() as client:
        client.connect()
        assert not call(client, "MAILBOX.CREATE", {"name": BOX})["error"]
        assert read(client) == []  # a group is durable, and to make it is a write: it is there before the broker stands still
        send(client, (f"first.{number}" for number in range(COUNT)))
    owner = await cluster.owner(BOX)
    other = next(name for name in cluster.names if name != owner)
    askers = [cluster.brokers[owner].dial() for _ in range(3)]
    try:
        for asker in askers:
            asker.connect()
            asker.sub(b"answers")
            asker.flush()
        cluster.pause(owner)
        await pause(faults.LONGER_S)
        with cluster.brokers[other].dial() as client:
            client.connect()
            assert len(await asyncio.to_thread(read, client)) == COUNT
        for asker in askers:
            asker.pub(FETCH, json.dumps(ASK).encode(), reply=b"answers")
        cluster.resume(owner)
        answers = [await asyncio.to_thread(asker.next_frame) for asker in askers]
        return [message["payload"] for answer in answers for message in answer.json().get("messages", ())]
    finally:
        for asker in askers:
            asker.close()


async def test_a_broker_that_stood_still_gives_nothing_again(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        assert await given_by_who_stood_still(cluster) == []


async def test_without_the_lease_it_would(tmp_path: Path) -> None:
    """The positive control: the same steps find out a broker whose lease never ends."""
    async with Lawless(tmp_path) as cluster:
        assert await given_by_who_stood_still(cluster)


async def lost_with_the_owner(cluster: Cluster) -> tuple[int, list[str]]:
    """Everybody but the owner of a mailbox stands still while it is sent to; then all die, the owner for good. How many sends
    it had acknowledged, and which of them are lost."""
    with cluster.brokers["b0"].dial() as client:
        client.connect()
        assert not call(client, "MAILBOX.CREATE", {"name": BOX})["error"]
        acknowledged = send(client, (f"before.{number}" for number in range(COUNT)))
    owner = await cluster.owner(BOX)
    others = [name for name in cluster.names if name != owner]
    with cluster.brokers[owner].dial() as client:
        client.connect()
        inbox = client.sub(b"answers.*")
        client.flush()
        for name in others:
            cluster.pause(name)
        for number in range(COUNT):
            client.pub(f"$mq9.AI.MSG.SEND.{BOX}".encode(), b"after.%d" % number, reply=b"answers.%d" % number)
        await pause(0.3)  # for as long as a leader goes on with a set of one it is not asked to wait: less than that
        frames = client.flush()
        assert inbox
        acknowledged += [f"after.{frame.subject.rpartition(b'.')[2].decode()}" for frame in frames if not frame.json()["error"]]
    cluster.kill(owner)
    cluster.wipe(owner)
    cluster.kill(*others)  # with what their kernels hold for them: an owner that has not waited must not be lucky
    cluster.start(*others)
    await cluster.settled(replicas=2)
    with cluster.brokers[others[0]].dial() as client:
        client.connect()
        there = await asyncio.to_thread(read, client, "auditor")
    return len(acknowledged), sorted(set(acknowledged) - set(there))


async def test_what_was_acknowledged_is_not_lost_with_its_owner(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        count, lost = await lost_with_the_owner(cluster)
        assert (count, lost) == (COUNT, [])


async def test_without_waiting_for_replicas_it_would_be(tmp_path: Path) -> None:
    """The positive control: the same steps find out an owner that acknowledges what it alone has."""
    async with Hasty(tmp_path) as cluster:
        count, lost = await lost_with_the_owner(cluster)
        assert count == 2 * COUNT
        assert lost
