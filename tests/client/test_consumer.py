"""Consumers: every message once in good times, at least once in bad ones, and nothing held back."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import mq9
from tests.client.proxy import Proxy
from tests.support.process import Process
from tests.support.server import ServerProcess

pytestmark = pytest.mark.anyio


async def _fill(client: mq9.Client, mailbox: str, count: int) -> None:
    await asyncio.gather(*(client.send(mailbox, str(number)) for number in range(1, count + 1)))


async def _lag(client: mq9.Client, mailbox: str, group: str = "g") -> tuple[int, int]:
    """What the group has not confirmed, and what of that it was handed."""
    (info,) = [each for each in (await client.mailbox_info(mailbox)).groups if each.name == group]
    return info.lag, info.unacked


@asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    """Only a failing test waits this long."""
    async with asyncio.timeout(30):
        yield


async def test_async_for_reads_everything_once_and_confirms_it(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 250)
    seen: list[int] = []
    async with _deadline(), client.consume(box, group_name="g", deliver="earliest", num_msgs=20) as consumer:
        async for message in consumer:
            seen.append(message.msg_id)
            if len(seen) == 250:
                await message.ack()
                break
    assert seen == list(range(1, 251))
    assert await _lag(client, box) == (0, 0)
    assert not consumer.is_running


async def test_a_consumer_waits_for_what_comes(client: mq9.Client, box: mq9.Mailbox) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(message: mq9.Message) -> None:
        got.put_nowait(message.payload)

    async with _deadline():
        consumer = await client.consume(box, handler, group_name="g", deliver="earliest")
        for number in range(5):
            await client.send(box, str(number))
            assert await got.get() == str(number).encode()
        await consumer.drain()
    assert consumer.processed_count == 5
    assert await _lag(client, box) == (0, 0)


async def test_handlers_run_side_by_side(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 8)
    together = asyncio.Barrier(4)

    async def handler(_: mq9.Message) -> None:
        await together.wait()  # goes on only when four handlers are in here

    async with _deadline():
        consumer = await client.consume(box, handler, group_name="g", deliver="earliest", concurrency=4)
        while consumer.processed_count < 8:
            await client.mailbox_info(box)
        await consumer.stop()
    assert await _lag(client, box) == (0, 0)


async def test_leaving_the_loop_leaves_the_last_message_unconfirmed(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 3)
    async with _deadline():
        async for message in client.consume(box, group_name="g", deliver="earliest", max_wait_ms=50):
            if message.msg_id == 2:
                break
        # 2 was in hand and 3 in the buffer: both were given back, so that nobody waits for a lease to end.
        again = await client.fetch(box, group_name="g", max_wait_ms=20_000, hold=True)
    assert [(each.msg_id, each.deliveries) for each in again] == [(2, 2), (3, 2)]


async def test_an_exception_in_the_loop_gives_the_message_back(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 1)

    async def read() -> None:
        async with client.consume(box, group_name="g", deliver="earliest", max_wait_ms=50) as consumer:
            async for _ in consumer:
                raise ZeroDivisionError

    async with _deadline():
        with pytest.raises(ZeroDivisionError):
            await read()
        (message,) = await client.fetch(box, group_name="g", max_wait_ms=20_000, hold=True)
    assert message.deliveries == 2


async def test_a_failed_handler_gets_its_message_again(
    client: mq9.Client, box: mq9.Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    await _fill(client, box, 2)
    tries: list[tuple[int, int]] = []
    done = asyncio.Event()

    async def handler(message: mq9.Message) -> None:
        tries.append((message.msg_id, message.deliveries))
        if message.msg_id == 1 and message.deliveries < 3:
            raise ValueError("not yet")
        if len(tries) == 4:
            done.set()

    async with _deadline():
        consumer = await client.consume(box, handler, group_name="g", deliver="earliest", retry_delay_s=0.01)
        await done.wait()
        await consumer.drain()
    assert sorted(tries) == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert consumer.processed_count == 2
    assert await _lag(client, box) == (0, 0)
    logged = [record.levelno for record in caplog.records if "handler failed for message 1" in record.message]
    assert logged == [logging.ERROR] * 2


async def test_an_error_handler_is_told_and_may_fail_itself(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 1)
    told: list[str] = []
    again = asyncio.Event()

    async def handler(message: mq9.Message) -> None:
        if message.deliveries == 2:
            again.set()
            return
        raise ValueError("first time")

    async def error_handler(message: mq9.Message, failure: Exception) -> None:
        told.append(f"{message.msg_id}: {failure}")
        raise ZeroDivisionError

    async with _deadline():
        consumer = await client.consume(
            box, handler, group_name="g", deliver="earliest", error_handler=error_handler, retry_delay_s=0
        )
        await again.wait()
        await consumer.drain()
    assert told == ["1: first time"]


async def test_manual_confirmation(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 3)
    async with _deadline(), client.consume(box, group_name="g", deliver="earliest", auto_ack=False) as consumer:
        async for message in consumer:
            if message.msg_id == 1:
                await message.ack()
                assert (await _lag(client, box))[0] == 2  # it is on disk when ack returns
            elif message.msg_id == 2 and message.deliveries == 1:
                await message.nack()
            elif message.msg_id == 3:
                await consumer.ack(message)
            else:
                await message.ack()
                break
    assert await _lag(client, box) == (0, 0)


async def test_what_is_never_confirmed_comes_again_when_its_lease_ends(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 2)
    seen: list[tuple[int, int]] = []
    async with _deadline():
        options = {"group_name": "g", "deliver": "earliest", "auto_ack": False, "num_msgs": 2, "ack_wait_ms": 100}
        async with client.consume(box, **options) as consumer:  # type: ignore[arg-type]
            async for message in consumer:
                seen.append((message.msg_id, message.deliveries))
                if len(seen) == 4:
                    break
    assert seen == [(1, 1), (2, 1), (1, 2), (2, 2)]


async def test_a_message_without_a_consumer_cannot_confirm_itself(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 1)
    (message,) = await client.fetch(box, deliver="earliest")
    with pytest.raises(mq9.RequestError, match=r"use Client\.ack"):
        await message.ack()


async def test_no_more_is_held_than_asked_for(client: mq9.Client, box: mq9.Mailbox) -> None:
    """A worker that is stuck keeps its own message from the others, and no more."""
    await _fill(client, box, 10)
    async with _deadline(), client.consume(box, group_name="g", deliver="earliest", num_msgs=1) as consumer:
        async for message in consumer:
            assert message.msg_id == 1
            others = await client.fetch(box, group_name="g", hold=True)
            assert [each.msg_id for each in others] == list(range(2, 11))
            break


async def test_two_consumers_of_one_client_share_a_group(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 100)
    seen: list[int] = []
    both = asyncio.Barrier(2)
    all_done = asyncio.Event()

    def handler_of() -> mq9.client.consumer.Handler:
        first = True

        async def handler(message: mq9.Message) -> None:
            nonlocal first
            if first:
                first = False
                await both.wait()  # each of them has something at the same time
            seen.append(message.msg_id)
            if len(seen) == 100:
                all_done.set()

        return handler

    async with _deadline():
        consumers = [await client.consume(box, handler_of(), group_name="g", deliver="earliest") for _ in range(2)]
        await all_done.wait()
        for consumer in consumers:
            await consumer.drain()
    assert sorted(seen) == list(range(1, 101))


async def test_drain_lets_the_handler_finish_and_gives_the_rest_back(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 5)
    inside, go_on = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    async def handler(message: mq9.Message) -> None:
        inside.set()
        await go_on.wait()
        seen.append(message.msg_id)

    async with _deadline():
        consumer = await client.consume(box, handler, group_name="g", deliver="earliest", max_wait_ms=50)
        await inside.wait()
        draining = asyncio.create_task(consumer.drain())
        rest = await client.fetch(box, group_name="g", max_wait_ms=20_000, hold=True)
        assert [message.msg_id for message in rest] == [2, 3, 4, 5]
        go_on.set()
        await draining
    assert seen == [1]
    assert (await _lag(client, box))[0] == 4


async def test_drain_waits_for_the_body_of_the_loop(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 5)
    inside, go_on = asyncio.Event(), asyncio.Event()
    seen: list[int] = []
    consumer = client.consume(box, group_name="g", deliver="earliest")

    async def read() -> None:
        async for message in consumer:
            inside.set()
            await go_on.wait()
            seen.append(message.msg_id)

    async with _deadline():
        reading = asyncio.create_task(read())
        await inside.wait()
        draining = asyncio.create_task(consumer.drain())
        await client.mailbox_info(box)
        assert not draining.done()
        go_on.set()
        await asyncio.gather(draining, reading)
    assert seen == [1]
    assert (await _lag(client, box))[0] == 4


async def test_stop_cancels_the_handler_and_gives_its_message_back(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 2)
    inside, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(_: mq9.Message) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with _deadline():
        consumer = await client.consume(box, handler, group_name="g", deliver="earliest", max_wait_ms=50)
        await inside.wait()
        await consumer.stop()
        await consumer.stop()
        assert cancelled.is_set()
        assert not consumer.is_running
        rest = await client.fetch(box, group_name="g", max_wait_ms=20_000, hold=True)
    assert [(message.msg_id, message.deliveries) for message in rest] == [(1, 2), (2, 2)]


async def test_what_a_last_fetch_brings_after_stop_is_given_back(client: mq9.Client, box: mq9.Mailbox) -> None:
    async def handler(_: mq9.Message) -> None:
        pytest.fail("it was stopped")

    async with _deadline():
        consumer = await client.consume(box, handler, group_name="g", deliver="earliest", max_wait_ms=20_000)
        while not (await client.mailbox_info(box)).groups:
            pass
        await consumer.stop()
        await client.send(box, b"x")
        # The abandoned FETCH is first in the queue for it, and returns it.
        (message,) = await client.fetch(box, group_name="g", max_wait_ms=20_000, hold=True)
    assert message.deliveries == 2


async def test_a_mailbox_that_goes_ends_the_loop_with_its_error(client: mq9.Client) -> None:
    mailbox = await client.mailbox_create()
    await client.send(mailbox, b"x")

    async def read() -> None:
        async for _ in client.consume(mailbox, group_name="g", deliver="earliest"):
            await client.mailbox_remove(mailbox)

    async with _deadline():
        with pytest.raises(mq9.NotFound):
            await read()


async def test_a_mailbox_that_is_not_there_ends_the_handler_form_too(client: mq9.Client) -> None:
    async def handler(_: mq9.Message) -> None:
        pytest.fail("there is nothing")

    async with _deadline():
        consumer = await client.consume("no.such.box", handler, group_name="g")
        with pytest.raises(mq9.NotFound):
            await consumer.wait()
    assert not consumer.is_running


# --- Without a group --------------------------------------------------------------------------------------------


async def test_without_a_group_a_consumer_sees_everything_and_records_nothing(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 30)
    seen: list[int] = []
    async with _deadline():
        async for message in client.consume(box, deliver="earliest"):
            seen.append(message.msg_id)
            if message.msg_id == 30:
                await client.send(box, b"urgent", priority="urgent")
            if message.msg_id == 31:
                break
    assert seen == list(range(1, 32))
    assert (await client.mailbox_info(box)).groups == ()


async def test_without_a_group_latest_misses_nothing_from_the_start_on(client: mq9.Client, box: mq9.Mailbox) -> None:
    await _fill(client, box, 3)
    seen: list[int] = []
    async with _deadline(), client.consume(box, max_wait_ms=1) as consumer:  # many polls, much between them
        messages = aiter(consumer)
        first = asyncio.ensure_future(anext(messages))
        while consumer._tail is None or not consumer._tail._placed:
            await client.mailbox_info(box)
        await _fill(client, box, 50)
        seen.append((await first).msg_id)
        async for message in messages:
            seen.append(message.msg_id)
            if len(seen) == 50:
                break
    assert seen == list(range(4, 54))


async def test_without_a_group_more_than_one_reply_holds_is_still_complete(client: mq9.Client, box: mq9.Mailbox) -> None:
    """Urgent messages come first and fill the reply; what is less urgent and older must not be skipped."""
    await asyncio.gather(*(client.send(box, b"n") for _ in range(300)))
    await asyncio.gather(*(client.send(box, b"u", priority="urgent") for _ in range(1200)))
    seen: set[int] = set()
    async with _deadline():
        async for message in client.consume(box, deliver="earliest"):
            assert message.msg_id not in seen
            seen.add(message.msg_id)
            if len(seen) == 1500:
                break
    assert seen == set(range(1, 1501))


# --- Bad times --------------------------------------------------------------------------------------------------


async def test_the_work_of_a_killed_worker_goes_to_another(
    shared_server: ServerProcess, box: mq9.Mailbox, tmp_path: Path
) -> None:
    """SIGKILL: its connection closes, its leases end, and its messages come to the next worker at once."""
    program = (
        "import asyncio, sys, mq9\n"
        "async def main():\n"
        "    async with mq9.connect(sys.argv[1]) as client:\n"
        "        async for message in client.consume(sys.argv[2], group_name='g', deliver='earliest', num_msgs=5):\n"
        "            print(message.msg_id, flush=True)\n"
        "            await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).parents[2])
    worker = Process([sys.executable, "-c", program, shared_server.url, box], tmp_path / "worker.log", {"PYTHONPATH": root})
    async with _deadline(), mq9.connect(shared_server.url) as client:
        await _fill(client, box, 5)
        await asyncio.to_thread(worker.spawn)
        assert await asyncio.to_thread(worker.read_line) == "1\n"
        await asyncio.to_thread(worker.kill)
        seen: list[tuple[int, int]] = []
        async for message in client.consume(box, group_name="g"):
            seen.append((message.msg_id, message.deliveries))
            if len(seen) == 5:
                break
    assert seen == [(number, 2) for number in range(1, 6)]


async def test_the_work_of_a_stuck_worker_goes_to_another_when_its_lease_ends(
    shared_server: ServerProcess, client: mq9.Client, box: mq9.Mailbox
) -> None:
    await _fill(client, box, 1)
    async with _deadline(), mq9.connect(shared_server.url) as other:
        await client.fetch(box, group_name="g", deliver="earliest", ack_wait_ms=200)
        async for message in other.consume(box, group_name="g"):
            assert message.deliveries == 2
            await message.ack()
            break
    assert await _lag(client, box) == (0, 0)


async def test_a_slow_handler_is_not_run_twice_by_its_own_consumer(client: mq9.Client, box: mq9.Mailbox) -> None:
    """Its lease ends while it works and the message comes again: to the same consumer, which has it in hand."""
    await _fill(client, box, 1)
    runs = 0
    returned = asyncio.Event()

    async def handler(_: mq9.Message) -> None:
        nonlocal runs
        runs += 1
        # Wait until the broker has handed it out a second time.
        while not returned.is_set():
            held = await client.mailbox_info(box)
            if held.groups[0].unacked == 1 and consumer._holding.lease_end_s() != first_lease:
                returned.set()

    async with _deadline():
        consumer = client.consume(box, handler, group_name="g", deliver="earliest", ack_wait_ms=200, max_wait_ms=500)
        first_lease = None
        consumer.start()
        while consumer._holding.lease_end_s() is None:
            await client.mailbox_info(box)
        first_lease = consumer._holding.lease_end_s()
        await returned.wait()
        await consumer.drain()
    assert runs == 1
    assert await _lag(client, box) == (0, 0)


async def test_a_consumer_goes_on_after_the_server_was_killed(server: ServerProcess) -> None:
    """Everything is seen, nothing that was confirmed is seen again, and the consumer never notices more than a pause."""
    async with _deadline(), mq9.connect(server.url, timeout_s=30, reconnect_delay_s=0.02) as client:
        mailbox = await client.mailbox_create()
        seen: list[int] = []
        half, whole = asyncio.Event(), asyncio.Event()

        async def handler(message: mq9.Message) -> None:
            await message.ack()
            seen.append(message.msg_id)
            if len(seen) == 50:
                half.set()
            if len(seen) == 100:
                whole.set()

        consumer = await client.consume(mailbox, handler, group_name="g", deliver="earliest", auto_ack=False)
        await _fill(client, mailbox, 50)
        await half.wait()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await _fill(client, mailbox, 50)
        await whole.wait()
        await consumer.drain()
    assert sorted(seen) == list(range(1, 101))


async def test_a_cut_connection_loses_nothing_and_doubles_nothing_that_was_confirmed(shared_server: ServerProcess) -> None:
    async with (
        _deadline(),
        Proxy(shared_server.port) as proxy,
        mq9.connect(shared_server.url) as sender,
        mq9.connect(proxy.url, timeout_s=30, reconnect_delay_s=0.02) as client,
    ):
        mailbox = await sender.mailbox_create()
        await _fill(sender, mailbox, 200)
        seen: list[int] = []
        cuts = 0
        async for message in client.consume(mailbox, group_name="g", deliver="earliest"):
            seen.append(message.msg_id)
            if len(seen) % 40 == 0 and cuts < 4:
                cuts += 1
                proxy.cut()
            if set(seen) == set(range(1, 201)):
                break
        repeated = len(seen) - 200
        assert repeated <= cuts * 10, "at most what was held when a connection was cut comes again"
        await sender.mailbox_remove(mailbox)
