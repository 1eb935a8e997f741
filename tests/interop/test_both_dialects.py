"""Both dialects on one mailbox at once: the published SDK (PyPI robustmq 1.0.0), our client, and a bare NATS client."""

from __future__ import annotations

import asyncio
from typing import Any

import nats
import pytest

import mq9
from tests.support.server import ServerProcess

sdk = pytest.importorskip("robustmq.mq9", reason="robustmq is not installed (pip install robustmq==1.0.0)")

TIMEOUT_S = 30  # only a failing test waits this long
OLDER_WORDS = {"critical": "high", "urgent": "high", "normal": "normal", "low": "low"}

pytestmark = [pytest.mark.interop, pytest.mark.anyio]


async def take(got: asyncio.Queue[Any], count: int) -> list[Any]:
    async with asyncio.timeout(TIMEOUT_S):
        return [await got.get() for _ in range(count)]


async def test_what_the_older_client_sends_the_newer_one_fetches(shared_server: ServerProcess) -> None:
    async with sdk.Client(shared_server.url) as older, mq9.connect(shared_server.url) as newer:
        box = (await older.create(ttl=600)).mail_id
        for word in ("low", "normal", "high"):
            await older.send(box, word, priority=word)
        await older.list(box)  # they are stored
        fetched = await newer.fetch(box, group_name="g", deliver="earliest")
    assert [(each.text, each.priority) for each in fetched] == [("high", "critical"), ("normal", "normal"), ("low", "low")]


async def test_what_the_newer_client_sends_the_older_one_is_pushed(shared_server: ServerProcess) -> None:
    """Two of its four priorities have one word in the older dialect; headers and keys are not lost on those who know them."""
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with sdk.Client(shared_server.url) as older, mq9.connect(shared_server.url) as newer:
        box = await newer.mailbox_create(ttl=600)
        for priority in mq9.Priority:
            await newer.send(box, f"stored {priority}", priority=priority)
        await newer.send(box, "replaced", key="k")
        await newer.send(box, "kept", key="k", headers={"trace": "7"})
        await older.subscribe(box, got.put)
        stored = await take(got, 5)
        for priority in mq9.Priority:
            await newer.send(box, f"live {priority}", priority=priority)
        live = await take(got, 4)
        bare = await nats.connect(shared_server.url)
        raw = await (await bare.subscribe(f"$mq9.AI.MAILBOX.MSG.{box}.urgent")).next_msg(TIMEOUT_S)
        await bare.close()
    expected = [(f"stored {word}", OLDER_WORDS[word]) for word in ("critical", "urgent", "normal")]
    assert [(each.payload.decode(), each.priority.value) for each in stored] == [
        *expected, ("kept", "normal"), ("stored low", "low"),
    ]  # fmt: skip
    assert [(each.payload.decode(), each.priority.value) for each in live] == [
        (f"live {word}", OLDER_WORDS[word]) for word in ("critical", "urgent", "normal", "low")
    ]
    assert (raw.subject, raw.data) == (f"$mq9.AI.MAILBOX.MSG.{box}.high", b"stored urgent")
    assert raw.headers is not None
    assert (raw.headers["mq9-priority"], raw.headers["mq9-msg-id"]) == ("urgent", stored[1].msg_id)


async def test_what_one_confirms_or_deletes_is_seen_by_the_other(shared_server: ServerProcess) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with sdk.Client(shared_server.url) as older, mq9.connect(shared_server.url) as newer:
        box = await newer.mailbox_create(ttl=600)
        for number in range(1, 6):
            await newer.send(box, str(number))
        one, two = await newer.fetch(box, group_name="workers", deliver="earliest", num_msgs=2)
        await newer.ack(box, "workers", [one.msg_id])
        await newer.nack(box, "workers", [two.msg_id])
        await older.delete(box, "3")
        await newer.delete(box, 4)
        await older.subscribe(box, got.put, queue_group="workers")
        assert [each.payload for each in await take(got, 2)] == [b"2", b"5"]
        assert [each.msg_id for each in await older.list(box)] == ["1", "2", "5"]
        assert [each.msg_id for each in await newer.query(box)] == [1, 2, 5]
        # The pushed ones count as confirmed for whoever fetches for the same group.
        assert await newer.fetch(box, group_name="workers", max_wait_ms=0) == []
        [group] = (await newer.mailbox_info(box)).groups
        assert (group.name, group.lag, group.unacked) == ("workers", 0, 0)


async def test_a_leased_message_is_pushed_to_nobody_until_it_is_given_back(shared_server: ServerProcess) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with sdk.Client(shared_server.url) as older:
        async with mq9.connect(shared_server.url) as newer:
            box = await newer.mailbox_create(ttl=600)
            await newer.send(box, "leased")
            await newer.fetch(box, group_name="workers", deliver="earliest")
            await older.subscribe(box, got.put, queue_group="workers")
            await newer.send(box, "free")
            assert [each.payload for each in await take(got, 1)] == [b"free"]
        # Its connection closed without confirming: the lease is over.
        assert [each.payload for each in await take(got, 1)] == [b"leased"]


async def test_members_of_both_dialects_share_one_group(shared_server: ServerProcess) -> None:
    """Four of them, and every job once."""
    done: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def pushed(message: Any) -> None:
        done.put_nowait(("pushed", int(message.payload)))

    async def fetched(message: mq9.Message) -> None:
        done.put_nowait(("fetched", int(message.payload)))

    url = shared_server.url
    async with sdk.Client(url) as boss, mq9.connect(url) as one, mq9.connect(url) as two:
        box = (await boss.create(ttl=600)).mail_id
        for worker in (one, two):
            await worker.consume(box, fetched, group_name="workers", deliver="earliest", num_msgs=5)
        async with sdk.Client(url) as three, sdk.Client(url) as four:
            for member in (three, four):
                await member.subscribe(box, pushed, queue_group="workers")
                await member.list(box)
            for job in range(500):
                await boss.send(box, str(job))
            jobs = await take(done, 500)
        await boss.send(box, "500")  # nobody is left to push to
        jobs += await take(done, 1)
        await boss.list(box)
        assert done.empty()
    assert sorted(number for _, number in jobs) == list(range(501))
    assert jobs[-1] == ("fetched", 500)
    assert "pushed" in {how for how, _ in jobs}


async def test_public_mailboxes_are_the_same_ones(shared_server: ServerProcess) -> None:
    async with sdk.Client(shared_server.url) as older, mq9.connect(shared_server.url) as newer:
        made = await older.create(ttl=600, public=True, name="interop.both", desc="from the older one")
        again = await newer.mailbox_create("interop.both", public=True, ttl=60)
        assert (again, again.is_new, again.ttl) == (made.mail_id, False, 600)
        assert (await newer.mailbox_info("interop.both")).desc == "from the older one"
        await newer.mailbox_remove("interop.both")
        with pytest.raises(sdk.client.Mq9Error) as refusal:
            await older.list("interop.both")
    assert refusal.value.code == 404
