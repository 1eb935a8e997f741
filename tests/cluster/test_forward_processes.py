"""Clients on every broker of a real cluster use mailboxes of every other one, while one of them is killed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.cluster.processes import Cluster
from tests.meta.cluster import until

pytestmark = pytest.mark.anyio

BOXES = [f"box{number}" for number in range(40)]  # of more slots than brokers
WATCHED = BOXES[:10]
BEFORE, MEANWHILE = 5, 100  # messages of each


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, metas=1) as made:
        yield made


async def command(client: Client, name: str, body: bytes | dict[str, Any], **headers: str) -> dict[str, Any]:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await client.request(f"$mq9.AI.{name}", payload, timeout=10, headers=headers or None)
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


async def send_all(client: Client, box: str, under_way: asyncio.Event) -> list[str]:
    """Send to one mailbox, each message until it is answered for, and say what else was answered."""
    said = []
    for number in range(MEANWHILE):
        while (answer := await command(client, f"MSG.SEND.{box}", b"late %d" % number, **{"mq9-msg-id": str(number)}))["error"]:
            said.append(answer["code"])
        if number == MEANWHILE // 10:
            under_way.set()
    return said


async def test_every_mailbox_is_there_for_every_client_and_a_killed_broker_costs_nothing(cluster: Cluster) -> None:
    clients = [await nats.connect(broker.url, allow_reconnect=False) for broker in cluster.brokers.values()]
    left = [clients[0], clients[2]]
    for number, box in enumerate(BOXES):
        assert (await command(clients[number % 3], "MAILBOX.CREATE", {"name": box}))["error"] == ""
    pushed: Counter[str] = Counter()

    async def hear(message: Msg) -> None:
        pushed[message.subject] += 1

    for number, box in enumerate(WATCHED):
        await left[number % 2].subscribe(f"$mq9.AI.MAILBOX.MSG.{box}.*", cb=hear)
    for number, box in enumerate(BOXES):
        sends = [command(clients[(number + turn) % 3], f"MSG.SEND.{box}", b"early %d" % turn) for turn in range(BEFORE)]
        assert sorted(answer["msg_id"] for answer in await asyncio.gather(*sends)) == list(range(1, BEFORE + 1))
    polls = [
        asyncio.create_task(
            command(left[number % 2], f"MSG.FETCH.{box}", {"group_name": "g", "num_msgs": 100, "deliver": "earliest"})
        )
        for number, box in enumerate(BOXES)
    ]
    assert {len(answer["messages"]) for answer in await asyncio.gather(*polls)} == {BEFORE}
    under_way = asyncio.Event()
    sending = [asyncio.create_task(send_all(left[number % 2], box, under_way)) for number, box in enumerate(BOXES)]
    await under_way.wait()
    cluster.kill("b1")
    assert {code for said in await asyncio.gather(*sending) for code in said} <= {"UNAVAILABLE"}
    expected = sorted([f"early {number}" for number in range(BEFORE)] + [f"late {number}" for number in range(MEANWHILE)])
    for number, box in enumerate(BOXES):
        found = await command(left[number % 2], f"MSG.QUERY.{box}", {"limit": 1000, "encoding": "text"})
        assert sorted(message["payload"] for message in found["messages"]) == expected

    async def has_heard() -> bool:
        return pushed.total() >= len(WATCHED) * (BEFORE + MEANWHILE)

    await until("every message to have been pushed", has_heard)
    assert pushed == {f"$mq9.AI.MAILBOX.MSG.{box}.normal": BEFORE + MEANWHILE for box in WATCHED}
    for client in clients:
        await client.close()
