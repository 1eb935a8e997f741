"""The published Python SDK (PyPI robustmq 1.0.0), unmodified, as a subscriber: priorities, reconnects, groups, directory."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest

from tests.support.server import ServerProcess

sdk = pytest.importorskip("robustmq.mq9", reason="robustmq is not installed (pip install robustmq==1.0.0)")

TIMEOUT_S = 30  # only a failing test waits this long

pytestmark = [pytest.mark.interop, pytest.mark.anyio]


@asynccontextmanager
async def client(server: ServerProcess) -> AsyncIterator[Any]:
    """An SDK client that comes back soon after a restart."""
    async with sdk.Client(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=1000) as connected:
        yield connected


async def take(got: asyncio.Queue[Any], count: int) -> list[Any]:
    async with asyncio.timeout(TIMEOUT_S):
        return [await got.get() for _ in range(count)]


async def restart(server: ServerProcess, *subscribers: Any, how: str = "stopped") -> None:
    """Restart the server under its clients; they are back, and have subscribed again, when this returns."""
    back = [asyncio.Event() for _ in subscribers]

    def tell(event: asyncio.Event) -> Callable[[], Awaitable[None]]:
        async def reconnected() -> None:
            event.set()

        return reconnected

    for subscriber, event in zip(subscribers, back, strict=True):
        subscriber._nc._reconnected_cb = tell(event)
    if how == "killed":
        for subscriber in subscribers:
            await subscriber._nc.flush()  # a kill between a write and the note of it would repeat that write
        server.kill()
    server.restart()
    async with asyncio.timeout(TIMEOUT_S):
        for subscriber, event in zip(subscribers, back, strict=True):
            await event.wait()
            await subscriber._nc.flush()


@pytest.mark.parametrize("priority", [*sdk.Priority, "high", "normal", "low"])
async def test_a_subscription_to_one_priority_gets_that_alone(shared_server: ServerProcess, priority: Any) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with client(shared_server) as agent:
        mailbox = await agent.create(ttl=600)
        for time in ("stored", "live"):
            for word in ("low", "normal", "high"):
                await agent.send(mailbox.mail_id, f"{time} {word}", priority=word)
            if time == "stored":
                await agent.list(mailbox.mail_id)  # they are there now
                await agent.subscribe(mailbox.mail_id, got.put, priority=priority)
        messages = await take(got, 2)
        await agent.list(mailbox.mail_id)  # all that was sent is stored, and what was pushed before that came before this
        word = sdk.Priority(priority).value
        assert [each.payload.decode() for each in messages] == [f"stored {word}", f"live {word}"]
        assert {each.priority.value for each in messages} == {word}
        assert got.empty()


async def test_text_bytes_and_json_arrive_as_they_were_sent(shared_server: ServerProcess) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    payloads = ["text ü", b"\x00\xff\r\n", {"job": [1, 2]}, json.dumps({"msg_id": "mine", "payload": "x"}), "", "x" * 500_000]
    async with client(shared_server) as agent:
        mailbox = await agent.create(ttl=600)
        await agent.subscribe(mailbox.mail_id, got.put)
        for payload in payloads:
            await agent.send(mailbox.mail_id, payload)
        messages = await take(got, len(payloads))
    expected = [p if isinstance(p, bytes) else (p if isinstance(p, str) else json.dumps(p)).encode() for p in payloads]
    assert [each.payload for each in messages] == expected
    assert {each.mail_id for each in messages} == {mailbox.mail_id}


async def test_unsubscribing_ends_it(shared_server: ServerProcess) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with client(shared_server) as agent:
        mailbox = await agent.create(ttl=600)
        subscription = await agent.subscribe(mailbox.mail_id, got.put)
        await agent.send(mailbox.mail_id, "one")
        await take(got, 1)
        await subscription.unsubscribe()
        await agent.send(mailbox.mail_id, "two")
        assert len(await agent.list(mailbox.mail_id)) == 2
        assert got.empty()


async def test_deleting_what_is_not_there_is_no_error(shared_server: ServerProcess) -> None:
    async with client(shared_server) as agent:
        mailbox = await agent.create(ttl=600)
        await agent.delete(mailbox.mail_id, "7")


async def test_a_subscriber_sees_all_there_is_again_after_a_restart_and_then_goes_on(server: ServerProcess) -> None:
    """A plain subscription leaves no trace: every SUB begins with what is stored, and a reconnect is one."""
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with client(server) as agent:
        mailbox = await agent.create(ttl=600)
        await agent.subscribe(mailbox.mail_id, got.put)
        for text, priority in (("one", "low"), ("two", "high")):
            await agent.send(mailbox.mail_id, text, priority=priority)
            assert [each.payload.decode() for each in await take(got, 1)] == [text]
        await restart(server, agent)
        assert [each.payload for each in await take(got, 2)] == [b"two", b"one"]
        await agent.send(mailbox.mail_id, "three")
        assert [each.payload for each in await take(got, 1)] == [b"three"]


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_queue_group_goes_on_where_it_was_after_a_restart(server: ServerProcess, how: str) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with client(server) as one, client(server) as other:
        mailbox = await one.create(ttl=600)
        for worker in (one, other):
            await worker.subscribe(mailbox.mail_id, got.put, queue_group="workers")
        done: list[int] = []
        for first in range(0, 60, 20):
            for job in range(first, first + 20):
                await one.send(mailbox.mail_id, str(job))
            done += [int(each.payload) for each in await take(got, 20)]
            await restart(server, one, other, how=how)
        assert sorted(done) == list(range(60))
        await one.list(mailbox.mail_id)
        await other.list(mailbox.mail_id)
        assert got.empty()


async def test_members_that_come_later_get_what_is_left(shared_server: ServerProcess) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with client(shared_server) as boss:
        mailbox = await boss.create(ttl=600)
        for job in range(10):
            await boss.send(mailbox.mail_id, str(job))
        async with client(shared_server) as worker:
            await worker.subscribe(mailbox.mail_id, got.put, queue_group="workers")
            first = await take(got, 10)
        for job in range(10, 20):
            await boss.send(mailbox.mail_id, str(job))
        async with client(shared_server) as worker:
            await worker.subscribe(mailbox.mail_id, got.put, queue_group="workers")
            second = await take(got, 10)
    assert [int(each.payload) for each in [*first, *second]] == list(range(20))


async def test_a_public_mailbox_is_announced_and_its_end_too(shared_server: ServerProcess) -> None:
    """The SDK makes it; whoever listens to the public directory hears of it."""
    name = f"interop.public.{secrets.token_hex(4)}"
    listener = await nats.connect(shared_server.url)
    early = await listener.subscribe("$mq9.AI.PUBLIC.LIST")
    await listener.flush()
    async with client(shared_server) as agent:
        mailbox = await agent.create(ttl=1, public=True, name=name, desc="for everybody")
        assert (mailbox.mail_id, mailbox.public) == (name, True)
        with pytest.raises(ValueError, match="name is required"):
            await agent.create(ttl=1, public=True)
    late = await listener.subscribe("$mq9.AI.PUBLIC.LIST")
    created, expired = ({"event": event, "mail_id": name, "desc": "for everybody", "ttl": 1} for event in ("created", "expired"))
    for subscription in (early, late):
        events = []
        async with asyncio.timeout(TIMEOUT_S):
            async for message in subscription.messages:
                event = json.loads(message.data)
                if event["mail_id"] == name:
                    events.append(event)
                if len(events) == 2:
                    break
        assert events == [created, expired]
    await listener.close()
