"""Damage on the disk of one broker: what another has whole is served from there, and repaired."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from broker_node.cluster.slot_log import SLOT_TABLES, SlotLog, sequence_key
from mq9.errors import Mq9Error
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.layout import slot_of, slot_range
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.records import unseal
from mq9.v1 import meta_pb2 as meta
from tests.cluster.alone import SLOT, Alone
from tests.cluster.nodes import Cluster3
from tests.cluster.processes import Cluster
from tests.cluster.replicas import agree
from tests.meta.cluster import until

SENT = [f"message {number}" for number in range(10)]
CONFIRMED = 3
NOW = {"max_wait_ms": 0}
FETCH: dict[str, Any] = {"group_name": "g", "deliver": "earliest", "config": {**NOW, "num_msgs": 100}}


def damage(store: Store, table: Table, slot: int) -> int:
    """Turn the last byte of every row that a slot has in a table; how many rows that are."""
    rows = store.scan(table, *slot_range(slot), 1 << 20)
    batch = Batch()
    for key, value in rows:
        batch.put(table, key, value[:-1] + bytes((value[-1] ^ 1,)))
    store.commit(batch)
    return len(rows)


def damaged(directory: Path, slot: int) -> list[str]:
    """The rows of a slot that cannot be read, in the data of a broker that does not run."""
    found = []
    store = LmdbStore(directory)
    try:
        for table in (*SLOT_TABLES, Table.SLOT, Table.SLOT_LOG):
            for key, value in store.scan(table, *slot_range(slot), 1 << 20):
                try:
                    unseal(key, value)
                except Mq9Error as failure:
                    found.append(f"{table.name}: {failure.text}")
    finally:
        store.close()
    return found


# --- What is said of it -----------------------------------------------------------------------------------------


class Watch:
    """What the partition of a mailbox of node b tells of damage."""

    def __init__(self, cluster: Cluster3, *, whole_elsewhere: bool) -> None:
        self.met: list[Mq9Error] = []
        self.box = cluster.address_at("b")
        self.slot = cluster.slot(self.box)
        self.cluster = cluster
        self.whole_elsewhere = whole_elsewhere
        self.anew()

    def anew(self) -> None:
        """Node b takes the slot up again: nothing of it is in memory."""
        self.cluster.move(self.slot, "b")
        part = self.cluster["b"].partition(self.slot)
        assert part is not None
        part.watch_damage(self.met.append, lambda: self.whole_elsewhere)


@pytest.fixture
def cluster3() -> Iterator[Cluster3]:
    made = Cluster3()
    yield made
    made.close()


@pytest.mark.parametrize("node", "ab")
@pytest.mark.parametrize("whole_elsewhere", [True, False])
@pytest.mark.parametrize("table", [Table.MESSAGE, Table.MAILBOX, Table.STATE, Table.GROUP])
def test_a_request_that_meets_damage_reports_it_and_may_be_repeated_where_it_is_whole(
    cluster3: Cluster3, table: Table, node: str, *, whole_elsewhere: bool
) -> None:
    client = cluster3[node].client()
    watch = Watch(cluster3, whole_elsewhere=whole_elsewhere)
    client.command("MAILBOX.CREATE", {"name": watch.box})
    client.send(watch.box, b"x")
    assert len(client.command(f"MSG.FETCH.{watch.box}", FETCH)["messages"]) == 1
    watch.anew()
    assert damage(cluster3.store, table, watch.slot) == 1
    answer = client.command(f"MSG.FETCH.{watch.box}", FETCH)
    if whole_elsewhere:
        assert answer["code"] == "UNAVAILABLE"
    elif table is Table.MESSAGE:  # the others are served
        assert (answer["error"], answer["messages"]) == ("", [])
    else:
        assert answer["code"] == "DATA_DAMAGED"
    assert {failure.code for failure in watch.met} == {"DATA_DAMAGED"}


def test_a_page_of_public_mailboxes_reports_damage(cluster3: Cluster3) -> None:
    client = cluster3["a"].client()
    watch = Watch(cluster3, whole_elsewhere=True)
    client.command("MAILBOX.CREATE", {"name": watch.box, "public": True})
    watch.anew()
    assert damage(cluster3.store, Table.MAILBOX, watch.slot) == 1
    assert client.command("MAILBOX.LS", {})["code"] == "UNAVAILABLE"
    assert watch.met


def test_what_is_over_reports_damage(cluster3: Cluster3) -> None:
    client = cluster3["b"].client()
    watch = Watch(cluster3, whole_elsewhere=True)
    client.command("MAILBOX.CREATE", {"name": watch.box, "ttl": 1})
    watch.anew()
    assert damage(cluster3.store, Table.STATE, watch.slot) == 1
    cluster3.advance(5)
    assert watch.met


def test_a_timer_reports_damage_and_no_defect(cluster3: Cluster3, caplog: pytest.LogCaptureFixture) -> None:
    client = cluster3["b"].client()
    watch = Watch(cluster3, whole_elsewhere=True)
    client.command("MAILBOX.CREATE", {"name": watch.box})
    client.send(watch.box, b"x", key="k")
    client.send(watch.box, b"y", key="k", delay=2)
    assert damage(cluster3.store, Table.KEY, watch.slot) == 1
    cluster3.advance(5)
    assert watch.met
    assert "Traceback" not in caplog.text


def test_a_subscription_to_a_damaged_mailbox_reports_it_and_ends_nothing(cluster3: Cluster3) -> None:
    watch = Watch(cluster3, whole_elsewhere=True)
    cluster3["b"].client().command("MAILBOX.CREATE", {"name": watch.box})
    watch.anew()
    assert damage(cluster3.store, Table.MAILBOX, watch.slot) == 1
    cluster3["a"].client().subscribe(b"MAILBOX.MSG." + watch.box.encode())
    cluster3.run()
    assert watch.met


# --- Who may lead -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_whole", [True, False])
def test_who_has_no_whole_copy_leads_nothing_and_lets_another_lead_as_soon_as_one_may(*, is_whole: bool) -> None:
    alone = Alone()
    batch = Batch()
    SlotLog(alone.store, SLOT).append(batch, 1, {})
    alone.store.commit(batch)
    if not is_whole:
        damage(alone.store, Table.SLOT, SLOT)
    alone.begin()
    alone.ticks()
    assert bool(alone.replicator.leaders) is is_whole
    assert alone.given_up == 0, "there is nobody else"
    alone.changed(meta.Slot(slot=SLOT, epoch=5, ver=6, primary="a", replicas="abc", isr="ab"))
    alone.ticks()
    assert alone.given_up == (0 if is_whole else 1)


# --- What is done about it --------------------------------------------------------------------------------------


async def command(client: Client, name: str, body: bytes | dict[str, Any], **headers: str) -> dict[str, Any]:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await client.request(f"$mq9.AI.{name}", payload, timeout=10, headers=headers or None)
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


async def answered(client: Client, name: str, body: bytes | dict[str, Any], **headers: str) -> dict[str, Any]:
    """The answer to a command that is repeated while it is said that it may be."""
    answer = await command(client, name, body, **headers)
    while answer["error"]:
        assert answer["code"] == "UNAVAILABLE", answer
        answer = await command(client, name, body, **headers)
    return answer


async def lead(cluster: Cluster, number: int, name: str) -> int:
    """Have a broker lead a slot; the epoch in which it does, or did."""
    seen = 0

    async def moved() -> bool:
        nonlocal seen
        async with cluster.client() as client:
            slot = next(each for each in (await client.view()).slots if each.slot == number)
            change = meta.TransferPrimary(slot=number, epoch=slot.epoch, ver=slot.ver, to=name)
            reply = await client.admin(meta.AdminRequest(transfer=change))
        seen = slot.epoch + 1
        return bool(reply.result.outcome == meta.OK)

    await until(f"{name} to lead slot {number}", moved)
    return seen


async def led_anew(cluster: Cluster, number: int, epoch: int) -> None:
    """Wait for a newer epoch than that."""

    async def newer() -> bool:
        return next(each.epoch for each in (await cluster.view()).slots if each.slot == number) > epoch

    await until(f"slot {number} to be led anew", newer)


@pytest.mark.anyio
async def test_a_broker_with_damage_hands_the_slot_over_and_takes_a_copy(tmp_path: Path) -> None:
    tables = [Table.MESSAGE, Table.MAILBOX, Table.STATE, Table.GROUP, Table.SLOT, Table.SLOT_LOG, Table.META, Table.AGENT]
    async with Cluster(tmp_path, metas=1) as cluster:
        boxes: dict[Table, str] = {}
        names = iter(f"box{number}" for number in range(1000))
        taken: set[int] = set()
        for table in tables:
            boxes[table] = next(name for name in names if slot_of(name.encode(), cluster.slots) not in taken)
            taken.add(slot_of(boxes[table].encode(), cluster.slots))
        slots = {table: slot_of(box.encode(), cluster.slots) for table, box in boxes.items()}
        client = await nats.connect(cluster.brokers["b0"].url)
        for box in boxes.values():
            await answered(client, "MAILBOX.CREATE", {"name": box})
            for number, text in enumerate(SENT):
                await answered(client, f"MSG.SEND.{box}", text.encode(), **{"mq9-msg-id": str(number)})
            first = {**FETCH, "config": {**NOW, "num_msgs": CONFIRMED}}
            found = await answered(client, f"MSG.FETCH.{box}", first)
            assert [message["payload"] for message in found["messages"]] == SENT[:CONFIRMED]
            await answered(client, f"MSG.ACK.{box}", {"group_name": "g", "msg_id": CONFIRMED})
            await answered(client, "AGENT.REGISTER", {"name": box, "agent_card": {"name": box}})
        process = cluster.brokers["b1"]
        assert await asyncio.to_thread(process.stop) == 0
        harm(process.data_dir, slots)
        await asyncio.to_thread(process.start)
        await cluster.settled()
        for table, box in boxes.items():
            began = await lead(cluster, slots[table], "b1")
            found = await answered(client, f"MSG.FETCH.{box}", FETCH)
            assert [message["payload"] for message in found["messages"]] == SENT[CONFIRMED:], table.name
            assert (await answered(client, f"MSG.QUERY.{box}", {"limit": 100}))["messages"], table.name
            assert (await answered(client, "AGENT.REPORT", {"name": box}))["error"] == "", table.name
            if table not in (Table.SLOT, Table.SLOT_LOG):  # those it found at its start, and took copies at once
                await led_anew(cluster, slots[table], began)
            await cluster.settled()
        await agree(cluster)
        await client.close()
        assert await asyncio.to_thread(process.stop) == 0
        assert [row for slot in slots.values() for row in damaged(process.data_dir, slot)] == []
        await asyncio.to_thread(process.start)


def harm(directory: Path, slots: dict[Table, int]) -> None:
    """In each slot damage the rows of one table: that is the one it is listed under."""
    store = LmdbStore(directory)
    try:
        for table, slot in slots.items():
            if table is Table.META:
                harm_counters(store, slot)
            else:
                assert damage(store, table, slot), table.name
    finally:
        store.close()


def harm_counters(store: Store, slot: int) -> None:
    """The row without which the partition cannot be opened."""
    key = sequence_key(slot)
    row = store.get(Table.META, key)
    assert row is not None
    batch = Batch()
    batch.put(Table.META, key, row[:-1] + bytes((row[-1] ^ 1,)))
    store.commit(batch)
