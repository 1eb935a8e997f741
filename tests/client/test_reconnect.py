"""Servers that stop, crash, go silent or lose an answer under a client: every call ends well or says why in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import mq9
from tests.client.proxy import Proxy
from tests.support.server import ServerProcess

pytestmark = pytest.mark.anyio


async def _stored(observer: mq9.Client, mailbox: str, count: int) -> None:
    """Wait until the mailbox has `count` messages."""
    seen: set[int] = set()
    while len(seen) < count:
        start = max(seen, default=0) + 1
        seen |= {each.msg_id for each in await observer.fetch(mailbox, deliver="from_id", from_id=start, max_wait_ms=10_000)}


async def _restart(server: ServerProcess) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def test_calls_go_on_after_the_server_was_killed_and_started_again(server: ServerProcess) -> None:
    async with mq9.connect(server.url, timeout_s=30, reconnect_delay_s=0.02) as client:
        mailbox = await client.mailbox_create()
        before = [await client.send(mailbox, f"before {number}") for number in range(20)]
        await asyncio.to_thread(server.kill)
        # These have no server at all when they are made, and are answered by the next one.
        waiting = [asyncio.create_task(client.send(mailbox, f"during {number}")) for number in range(20)]
        await asyncio.to_thread(server.start)
        during = await asyncio.gather(*waiting)
        assert sorted([*before, *during]) == list(range(1, 41))
        texts = {message.text for message in await client.fetch(mailbox, deliver="earliest")}
        assert texts == {f"{when} {number}" for when in ("before", "during") for number in range(20)}
        assert client.generation == 2


async def test_a_send_repeated_over_a_crash_is_stored_once(server: ServerProcess) -> None:
    """The answers are lost, the server is killed, and each send is made again on the next one: same message, same id."""
    async with Proxy(server.port) as proxy, mq9.connect(server.url, reconnect_delay_s=0.02) as observer:
        async with mq9.connect(proxy.url, timeout_s=30, reconnect_delay_s=0.02) as client:
            mailbox = await client.mailbox_create()
            proxy.lose_replies = True
            sends = [asyncio.create_task(client.send(mailbox, f"{number}")) for number in range(50)]
            await _stored(observer, mailbox, 50)
            proxy.refuse()
            await asyncio.to_thread(server.kill)
            proxy.lose_replies = False
            await asyncio.to_thread(server.start)
            await proxy.listen()
            receipts = await asyncio.gather(*sends)
        assert all(receipt.duplicate for receipt in receipts)
        assert sorted(receipts) == list(range(1, 51))
        messages = await observer.query(mailbox)
        assert [(message.msg_id, message.text) for message in messages] == sorted(
            (int(receipt), str(number)) for number, receipt in enumerate(receipts)
        )


async def test_a_deadline_holds_while_the_server_is_away(server: ServerProcess) -> None:
    async with mq9.connect(server.url, reconnect_delay_s=0.02) as client:
        mailbox = await client.mailbox_create()
        await asyncio.to_thread(server.kill)
        with pytest.raises(mq9.UnavailableError, match="not connected to nats://") as caught:
            await client.send(mailbox, b"x", timeout_s=0.2)
        assert not isinstance(caught.value, mq9.RequestTimeout)
        await asyncio.to_thread(server.start)
        await client.send(mailbox, b"x", timeout_s=30)


async def test_a_client_that_may_not_reconnect_for_ever_gives_up(server: ServerProcess) -> None:
    async with mq9.connect(server.url, reconnect_attempts=1, reconnect_delay_s=0.02, timeout_s=60) as client:
        await client.mailbox_create()
        await asyncio.to_thread(server.kill)
        with pytest.raises(mq9.UnavailableError, match="is closed"):
            await client.mailbox_create()  # long before its deadline
        assert not client.is_connected


async def test_a_silent_connection_is_replaced(shared_server: ServerProcess) -> None:
    """No FIN, no answer: a pulled cable. The call waits on it is made again on a new connection."""
    async with (
        Proxy(shared_server.port) as proxy,
        mq9.connect(proxy.url, timeout_s=30, silence_s=0.2, reconnect_delay_s=0.02) as client,
    ):
        mailbox = await client.mailbox_create()
        proxy.freeze()
        # More than the buffers on the way take, so that there is also something that cannot be written.
        receipts = await asyncio.gather(*(client.send(mailbox, bytes(500_000)) for _ in range(30)))
        assert sorted(receipts) == list(range(1, 31))
        assert client.generation >= 2
        await client.mailbox_remove(mailbox)


@asynccontextmanager
async def _through_proxy(port: int) -> AsyncIterator[tuple[Proxy, mq9.Client, mq9.Client]]:
    """A proxy, a client through it, and an observer beside it."""
    async with (
        Proxy(port) as proxy,
        mq9.connect(f"nats://127.0.0.1:{port}") as observer,
        mq9.connect(proxy.url, timeout_s=30, reconnect_delay_s=0.02) as client,
    ):
        yield proxy, client, observer


async def test_closing_does_not_wait_for_a_server_that_takes_nothing(shared_server: ServerProcess) -> None:
    async with Proxy(shared_server.port) as proxy, asyncio.timeout(30):
        client = await mq9.connect(proxy.url)
        mailbox = await client.mailbox_create(ttl=60)
        proxy.freeze()
        sends = [asyncio.create_task(client.send(mailbox, bytes(500_000))) for _ in range(40)]
        await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED, timeout=0.1)
        await client.close()
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert all(isinstance(result, mq9.Mq9Error) for result in results)


async def test_what_an_unanswered_attempt_removed_is_removed(shared_server: ServerProcess) -> None:
    async with _through_proxy(shared_server.port) as (proxy, client, observer):
        mailbox = await client.mailbox_create()
        msg_id = await client.send(mailbox, b"x")
        proxy.lose_replies = True
        deleting = asyncio.create_task(client.delete(mailbox, msg_id))
        while (await observer.mailbox_info(mailbox)).messages:
            pass
        proxy.lose_replies = False
        proxy.cut()
        await deleting  # "message not found" is what success looks like the second time
        with pytest.raises(mq9.NotFound):
            await client.delete(mailbox, msg_id)
        await client.mailbox_remove(mailbox)


async def test_what_an_unanswered_attempt_made_is_said_so(shared_server: ServerProcess) -> None:
    """Whether we or somebody else made the mailbox cannot be told; to take it for ours could give it two owners."""
    async with _through_proxy(shared_server.port) as (proxy, client, observer):
        proxy.lose_replies = True
        making = asyncio.create_task(client.mailbox_create("client.lost.create"))
        await _exists(observer, "client.lost.create")
        proxy.lose_replies = False
        proxy.cut()
        with pytest.raises(mq9.AlreadyExists) as caught:
            await making
        assert "may be the one that made the mailbox" in caught.value.__notes__[0]
        await client.mailbox_remove("client.lost.create")


async def _exists(observer: mq9.Client, mailbox: str) -> None:
    while True:
        try:
            await observer.mailbox_info(mailbox)
        except mq9.NotFound:
            continue
        return


async def test_a_long_poll_goes_on_after_a_reconnect(shared_server: ServerProcess) -> None:
    async with _through_proxy(shared_server.port) as (proxy, client, sender):
        mailbox = await sender.mailbox_create()
        await client.fetch(mailbox, group_name="g", deliver="earliest", max_wait_ms=1)  # the group is there
        waiting = asyncio.create_task(client.fetch(mailbox, group_name="g", max_wait_ms=30_000))
        await client.mailbox_info(mailbox)
        proxy.cut()
        await client.mailbox_info(mailbox)  # on the new connection
        await sender.send(mailbox, b"here")
        assert [message.payload for message in await waiting] == [b"here"]
        await sender.mailbox_remove(mailbox)


async def test_cancelling_a_call_leaves_the_client_whole(client: mq9.Client, box: mq9.Mailbox) -> None:
    waiting = asyncio.create_task(client.fetch(box, max_wait_ms=60_000))
    await client.mailbox_info(box)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert client._connection._calls == {}
    await client.send(box, b"x")
