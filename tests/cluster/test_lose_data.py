"""The way out when the last in-sync replica of a slot is there, but cannot read what it has of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import mq9
from mq9.errors import Mq9Error
from mq9.storage.interface import Batch, Table
from mq9.storage.layout import slot_of
from mq9.storage.lmdb_store import LmdbStore
from mq9.v1 import meta_pb2 as meta
from tests.cluster.processes import Cluster
from tests.meta.cluster import until

MAILBOX = "kept"


def damage(directory: Path, slot: int) -> None:
    """Spoil what a broker that does not run knows of how far it has the slot."""
    store = LmdbStore(directory, ballast_bytes=0, reserve_bytes=0)
    key = slot.to_bytes(2, "big")
    row = store.get(Table.SLOT, key)
    assert row is not None
    batch = Batch()
    batch.put(Table.SLOT, key, bytes([row[0] ^ 1]) + row[1:])
    store.commit(batch)
    store.close()


async def elect(cluster: Cluster, slot: int, node: str) -> meta.AdminReply:
    """What `mq9 cluster elect SLOT NODE --lose-data` asks for."""
    async with cluster.client() as client:
        (known,) = [each for each in (await client.view()).slots if each.slot == slot]
        wanted = meta.UncleanElect(slot=slot, epoch=known.epoch, ver=known.ver, to=node)
        return await client.admin(meta.AdminRequest(unclean_elect=wanted))


def in_sync(cluster: Cluster, slot: int, *names: str) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return any(each.slot == slot and sorted(each.isr) == list(names) for each in (await cluster.view()).slots)

    return probe


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_a_damaged_last_replica_is_stopped_then_another_is_elected(tmp_path: Path) -> None:
    async with Cluster(tmp_path, metas=1) as cluster:
        slot = slot_of(MAILBOX.encode(), cluster.slots)
        async with mq9.connect([broker.url for broker in cluster.brokers.values()]) as client:
            await client.mailbox_create(name=MAILBOX)
            await client.send(MAILBOX, b"acknowledged", timeout_s=30)
        cluster.kill("b1", "b2")
        await until("one replica to be left in sync", in_sync(cluster, slot, "b0"))
        cluster.kill("b0")
        damage(cluster.brokers["b0"].data_dir, slot)
        await asyncio.to_thread(cluster.start, "b0", "b1", "b2")

        async with mq9.connect(cluster.brokers["b1"].url) as client:
            with pytest.raises(Mq9Error):
                await client.mailbox_info(MAILBOX, timeout_s=1)
        refused = await elect(cluster, slot, "b1")
        assert refused.result.outcome == meta.REFUSED
        assert "has in-sync members that are there" in refused.result.text

        assert cluster.brokers["b0"].stop() == 0

        async def elected() -> bool:
            try:
                return (await elect(cluster, slot, "b1")).result.outcome == meta.OK
            except Mq9Error:
                return False

        await until("the session of the one that was stopped to end", elected)
        await until("the other to follow", in_sync(cluster, slot, "b1", "b2"))
        async with mq9.connect(cluster.brokers["b2"].url) as client:
            (message,) = await client.fetch(MAILBOX, group_name="g", deliver="earliest", timeout_s=30)
            assert message.payload == b"acknowledged"
            await asyncio.to_thread(cluster.start, "b0")  # it takes a copy
            await cluster.settled()
            await client.ack(MAILBOX, "g", message.msg_id, timeout_s=30)
