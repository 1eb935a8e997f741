"""The Python client while the mailbox it reads moves from broker to broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import mq9
from mq9.client.consumer import ConsumeOptions
from mq9.storage.layout import slot_of
from mq9.v1 import meta_pb2 as meta
from tests.cluster.processes import Cluster
from tests.meta.cluster import until

pytestmark = pytest.mark.anyio

BOX = "moves"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, metas=1) as made:
        yield made


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[mq9.Client]:
    async with mq9.connect([broker.url for broker in cluster.brokers.values()], timeout_s=30.0) as made:
        await made.mailbox_create(BOX)
        yield made


async def move(cluster: Cluster) -> None:
    """Have another broker lead the mailbox."""
    number = slot_of(BOX.encode(), cluster.slots)

    async def moved() -> bool:
        async with cluster.client() as client:
            slot = next(each for each in (await client.view()).slots if each.slot == number)
            to = next(each for each in slot.isr if each != slot.primary)
            change = meta.TransferPrimary(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, to=to)
            reply = await client.admin(meta.AdminRequest(transfer=change))
            return bool(reply.result.outcome == meta.OK)

    await until("the mailbox to move", moved)
    await cluster.settled()


async def test_a_consumer_goes_on_when_what_it_has_in_hand_was_handed_out_elsewhere(cluster: Cluster, client: mq9.Client) -> None:
    """Its program is told which messages come again, and they do: at once, and not when a lease ends. Nothing is raised."""
    for number in range(10):
        await client.send(BOX, str(number))
    hand: list[mq9.Message] = []
    confirmed: list[str] = []
    lost = 0
    options = ConsumeOptions(deliver="earliest", auto_ack=False, num_msgs=10, ack_wait_ms=3_600_000)
    async with client.consume(BOX, group_name="g", **options) as consumer:
        async for message in consumer:
            hand.append(message)
            if len(hand) + len(confirmed) < 10:
                continue
            if not lost:
                await move(cluster)
                # Fewer than make room for another FETCH, so nothing is handed out by the new leader before they are there.
                assert not any(await asyncio.gather(*(each.ack() for each in hand[:4])))
                lost, hand = 4, hand[4:]
            answers = await asyncio.gather(*(each.ack() for each in hand))
            confirmed += [each.text for each, answer in zip(hand, answers, strict=True) if answer]
            lost += answers.count(False)
            hand = []
            if len(confirmed) == 10:
                break
    assert sorted(confirmed) == [str(number) for number in range(10)]
    assert [group.lag for group in (await client.mailbox_info(BOX)).groups] == [0]


async def test_who_confirms_by_hand_is_told_what_was_lost_after_all_else_is_confirmed(
    cluster: Cluster, client: mq9.Client
) -> None:
    for number in range(4):
        await client.send(BOX, str(number))
    early = await client.fetch(BOX, group_name="g", deliver="earliest", num_msgs=2)
    await move(cluster)
    late = await client.fetch(BOX, group_name="g", num_msgs=2)
    assert [message.text for message in late] == ["0", "1"]  # handed out by the new leader
    await move(cluster)
    both = await client.fetch(BOX, group_name="g", num_msgs=1)
    with pytest.raises(mq9.DeliveryLost, match="message 2 "):
        await client.ack(BOX, "g", [message.msg_id for message in early])
    assert [message.text for message in both] == ["0"]
    again = await client.fetch(BOX, group_name="g", num_msgs=4)
    assert [message.text for message in again] == ["1", "2", "3"]


async def test_a_message_confirmed_after_its_consumer_ended_may_come_again(cluster: Cluster, client: mq9.Client) -> None:
    await client.send(BOX, "0")
    async with client.consume(BOX, group_name="g", deliver="earliest", auto_ack=False, num_msgs=1) as consumer:
        message = await anext(aiter(consumer))
    await move(cluster)
    assert await message.ack() is False
    (again,) = await client.fetch(BOX, group_name="g")
    assert again.text == "0"
