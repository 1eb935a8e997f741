"""The published Python SDK (PyPI robustmq 1.0.0), unmodified: the older dialect's commands, and its queue groups."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.server import ServerProcess

sdk = pytest.importorskip("robustmq.mq9", reason="robustmq is not installed (pip install robustmq==1.0.0)")

TIMEOUT_S = 10

pytestmark = [pytest.mark.interop, pytest.mark.anyio]


async def test_a_mailbox_is_made_filled_listed_and_emptied(shared_server: ServerProcess) -> None:
    async with sdk.Client(shared_server.url) as client:
        mailbox = await client.create(ttl=3600)
        for priority in ("low", "normal", "high"):
            await client.send(mailbox.mail_id, f"a {priority} one", priority=priority)
        listed = await client.list(mailbox.mail_id)
        assert [(meta.msg_id, meta.priority.value) for meta in listed] == [("1", "low"), ("2", "normal"), ("3", "high")]
        assert all(meta.ts > 0 for meta in listed)
        await client.delete(mailbox.mail_id, "2")
        assert [meta.msg_id for meta in await client.list(mailbox.mail_id)] == ["1", "3"]


async def test_what_was_stored_and_what_comes_reaches_a_subscriber_most_urgent_first(shared_server: ServerProcess) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with sdk.Client(shared_server.url) as client:
        mailbox = await client.create(ttl=3600)
        for priority in ("low", "normal", "high"):
            await client.send(mailbox.mail_id, priority.encode(), priority=priority)
        await client.send(mailbox.mail_id, b"")
        await client.list(mailbox.mail_id)  # a request: all of them are there now
        await client.subscribe(mailbox.mail_id, got.put)
        await client.send(mailbox.mail_id, {"job": 7}, priority="high")
        messages = [await asyncio.wait_for(got.get(), TIMEOUT_S) for _ in range(5)]
    # An envelope without a payload would be taken for the payload itself, so an empty message is an empty body.
    stored = [(message.payload, message.priority.value) for message in messages]
    assert stored[:4] == [(b"high", "high"), (b"normal", "normal"), (b"", "normal"), (b"low", "low")]
    assert stored[4] == (b'{"job": 7}', "high")
    assert [message.msg_id for message in messages] == ["3", "2", "", "1", "5"]


async def test_a_queue_group_shares_the_work(shared_server: ServerProcess) -> None:
    done: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    async with sdk.Client(shared_server.url) as one, sdk.Client(shared_server.url) as other:
        mailbox = await one.create(ttl=3600)

        def worker(name: str) -> Any:
            async def work(message: Any) -> None:
                await done.put((name, message.payload))

            return work

        await one.subscribe(mailbox.mail_id, worker("one"), queue_group="workers")
        await other.subscribe(mailbox.mail_id, worker("other"), queue_group="workers")
        await other.list(mailbox.mail_id)  # both subscriptions have reached the server
        for number in range(40):
            await one.send(mailbox.mail_id, str(number))
        jobs = [await asyncio.wait_for(done.get(), TIMEOUT_S) for _ in range(40)]
    assert sorted(int(payload) for _, payload in jobs) == list(range(40))
    assert {name for name, _ in jobs} == {"one", "other"}


async def test_a_public_mailbox_is_made_once(shared_server: ServerProcess) -> None:
    async with sdk.Client(shared_server.url) as client:
        for _ in range(2):
            mailbox = await client.create(ttl=3600, public=True, name="interop.tasks", desc="for everybody")
            assert mailbox.mail_id == "interop.tasks"


async def test_failures_are_its_own_errors(shared_server: ServerProcess) -> None:
    async with sdk.Client(shared_server.url) as client:
        with pytest.raises(sdk.client.Mq9Error) as refusal:
            await client.list("interop.nobody")
    assert (str(refusal.value), refusal.value.code) == ("mailbox interop.nobody does not exist", 404)
