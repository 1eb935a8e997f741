"""Every method of the client against a real server."""

from __future__ import annotations

import asyncio

import pytest

import mq9
from mq9.client.wire import Payload
from tests.support.server import ServerProcess

pytestmark = pytest.mark.anyio


async def test_connect_can_be_awaited(shared_server: ServerProcess) -> None:
    client = await mq9.connect(shared_server.url)
    assert client.is_connected
    await client.close()
    assert not client.is_connected


async def test_mailbox_create_returns_its_address(client: mq9.Client) -> None:
    mailbox = await client.mailbox_create("client.create", ttl=60, desc="what it is for")
    assert mailbox == "client.create"
    assert isinstance(mailbox, str)
    assert (mailbox.is_new, mailbox.ttl) == (True, 60)
    assert mailbox.expires_at > 0
    again = await client.mailbox_create(name="client.create", ttl=7, exist_ok=True)
    assert (again, again.is_new, again.ttl) == ("client.create", False, 60)
    await client.mailbox_remove(mailbox)


async def test_mailbox_without_a_name_gets_one_nobody_can_guess(client: mq9.Client, box: mq9.Mailbox) -> None:
    assert len(box) == 26
    assert box.is_new


async def test_mailbox_list_info_and_remove(client: mq9.Client) -> None:
    await client.mailbox_create("client.public.a", public=True, desc="first")
    await client.mailbox_create("client.public.b", public=True)
    first = await client.mailbox_list(prefix="client.public.", limit=1)
    assert [each.mail_address for each in first.mailboxes] == ["client.public.a"]
    second = await client.mailbox_list(prefix="client.public.", limit=1, after=first.next)
    assert [each.mail_address for each in second.mailboxes] == ["client.public.b"]

    await client.send("client.public.a", b"12345")
    await client.fetch("client.public.a", group_name="readers", deliver="earliest")
    info = await client.mailbox_info("client.public.a")
    assert (info.desc, info.public, info.messages) == ("first", True, 1)
    assert info.bytes >= 5
    assert info.last_msg_id == 1
    assert [(group.name, group.lag, group.unacked) for group in info.groups] == [("readers", 1, 1)]

    for name in ("client.public.a", "client.public.b"):
        await client.mailbox_remove(name)
    with pytest.raises(mq9.NotFound):
        await client.mailbox_info("client.public.a")


@pytest.mark.parametrize(
    ("payload", "stored"),
    [
        (b"\x00\xff raw", b"\x00\xff raw"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        ("text \u2603", "text \u2603".encode()),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ([1, "b"], b'[1,"b"]'),
        (b"", b""),
    ],
)
async def test_send_takes_bytes_text_and_json(client: mq9.Client, box: mq9.Mailbox, payload: Payload, stored: bytes) -> None:
    await client.send(box, payload)
    (message,) = await client.fetch(box, deliver="earliest")
    assert message.payload == stored


@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_comes_back_as_it_was_sent_in_both_forms(client: mq9.Client, box: mq9.Mailbox, stream: bool) -> None:
    receipt = await client.send(
        box, b"\x00\xff", priority=mq9.Priority.URGENT, key="k1", ttl=3600, tags=["a", "b"], headers={"X-Trace": "abc"}
    )
    (message,) = await client.fetch(box, group_name="g", deliver="earliest", stream=stream)
    assert message.msg_id == receipt == 1
    assert message.payload == b"\x00\xff"
    assert message.priority is mq9.Priority.URGENT
    assert (message.key, message.tags, message.headers) == ("k1", ["a", "b"], {"X-Trace": "abc"})
    assert message.deliveries == 1
    assert message.create_time == message.create_time_ms // 1000
    assert 3590 <= message.expires_at - message.create_time <= 3601


async def test_send_says_when_a_message_is_delayed_or_known(client: mq9.Client, box: mq9.Mailbox) -> None:
    delayed = await client.send(box, b"later", delay=3600)
    assert delayed == -1
    assert delayed.delayed
    first = await client.send(box, b"once", msg_id="order-1")
    second = await client.send(box, b"once", msg_id="order-1")
    assert (first.duplicate, second.duplicate, first == second) == (False, True, True)
    assert (await client.mailbox_info(box)).messages == 1


async def test_every_send_is_its_own_message(client: mq9.Client, box: mq9.Mailbox) -> None:
    receipts = await asyncio.gather(*(client.send(box, b"same") for _ in range(200)))
    assert sorted(receipts) == list(range(1, 201))
    assert not any(receipt.duplicate for receipt in receipts)


@pytest.mark.parametrize("stream", [False, True])
async def test_fetch_reads_most_urgent_first(client: mq9.Client, box: mq9.Mailbox, stream: bool) -> None:
    for priority in ("low", "normal", mq9.Priority.CRITICAL, "urgent"):
        await client.send(box, str(priority), priority=priority)
    messages = await client.fetch(box, deliver="earliest", stream=stream)
    assert [message.text for message in messages] == ["critical", "urgent", "normal", "low"]
    assert [str(message.priority) for message in messages] == ["critical", "urgent", "normal", "low"]


@pytest.mark.parametrize("stream", [False, True])
async def test_fetch_waits_for_the_first_message(client: mq9.Client, box: mq9.Mailbox, stream: bool) -> None:
    waiting = asyncio.create_task(client.fetch(box, group_name="g", deliver="earliest", max_wait_ms=20_000, stream=stream))
    await client.mailbox_info(box)  # answered in order: the FETCH waits at the broker now
    await client.send(box, b"here")
    assert [message.payload for message in await waiting] == [b"here"]


@pytest.mark.parametrize("stream", [False, True])
async def test_fetch_answers_empty_when_nothing_comes(client: mq9.Client, box: mq9.Mailbox, stream: bool) -> None:
    assert await client.fetch(box, max_wait_ms=1, stream=stream) == []


async def test_fetch_starts_where_it_is_told(client: mq9.Client, box: mq9.Mailbox) -> None:
    for number in range(1, 6):
        await client.send(box, str(number), tags=["even"] if number % 2 == 0 else None)
    assert [each.msg_id for each in await client.fetch(box, deliver="from_id", from_id=4)] == [4, 5]
    assert [each.msg_id for each in await client.fetch(box, deliver="from_time", from_time=1)] == [1, 2, 3, 4, 5]
    assert [each.msg_id for each in await client.fetch(box, deliver="earliest", tags=["even"])] == [2, 4]
    assert [each.msg_id for each in await client.fetch(box, deliver="earliest", num_msgs=2)] == [1, 2]


async def test_large_messages_are_asked_for_as_a_stream(client: mq9.Client, box: mq9.Mailbox) -> None:
    for number in range(3):
        await client.send(box, bytes([number]) * 50_000)
    for _ in range(2):  # the first learns the size, the second uses the other form
        messages = await client.fetch(box, deliver="earliest")
        assert [message.payload for message in messages] == [bytes([number]) * 50_000 for number in range(3)]
    assert client._form.stream(box)


async def test_ack_of_one_id_confirms_what_came_before_it(client: mq9.Client, box: mq9.Mailbox) -> None:
    for number in range(4):
        await client.send(box, str(number))
    await client.fetch(box, group_name="g", deliver="earliest", num_msgs=3)
    await client.ack(box, "g", 2)
    (group,) = (await client.mailbox_info(box)).groups
    assert (group.lag, group.unacked) == (2, 1)


async def test_ack_of_several_ids_confirms_just_these(client: mq9.Client, box: mq9.Mailbox) -> None:
    for number in range(4):
        await client.send(box, str(number))
    await client.fetch(box, group_name="g", deliver="earliest")
    await client.ack(box, "g", [2, 4])
    again = await client.fetch(box, group_name="g")
    assert [message.msg_id for message in again] == [1, 3]


async def test_ack_takes_more_ids_than_one_request_does(client: mq9.Client, box: mq9.Mailbox) -> None:
    await client.send(box, b"1")
    await client.fetch(box, group_name="g", deliver="earliest")
    await client.ack(box, "g", range(1, 2500))
    (group,) = (await client.mailbox_info(box)).groups
    assert group.lag == 0


async def test_nack_gives_a_message_back_at_once_or_later(client: mq9.Client, box: mq9.Mailbox) -> None:
    await client.send(box, b"1")
    for _ in range(2):
        (message,) = await client.fetch(box, group_name="g", deliver="earliest")
        await client.nack(box, "g", message.msg_id)
    (third,) = await client.fetch(box, group_name="g")
    assert third.deliveries == 3
    await client.nack(box, "g", [third.msg_id], delay_s=3600)
    assert await client.fetch(box, group_name="g", max_wait_ms=1) == []


async def test_query_filters_and_moves_nothing(client: mq9.Client, box: mq9.Mailbox) -> None:
    await client.send(box, b"old", key="status")
    await client.send(box, b"new", key="status", tags=["x"])
    await client.send(box, b"other", tags=["x", "y"])
    assert [each.payload for each in await client.query(box)] == [b"new", b"other"]
    assert [each.payload for each in await client.query(box, key="status")] == [b"new"]
    assert [each.payload for each in await client.query(box, tags=["x", "y"])] == [b"other"]
    assert [each.payload for each in await client.query(box, limit=1)] == [b"new"]
    assert await client.query(box, since=4e9) == []
    assert (await client.mailbox_info(box)).groups == ()


async def test_delete_removes_one_message(client: mq9.Client, box: mq9.Mailbox) -> None:
    receipt = await client.send(box, b"1")
    await client.send(box, b"2")
    await client.delete(box, receipt)
    assert [each.payload for each in await client.query(box)] == [b"2"]


async def test_agents_register_report_discover_and_leave(client: mq9.Client) -> None:
    name = "client.test.translator"
    await client.agent_register({"name": name, "payload": "translates quixotically between languages", "tags": ["client-test"]})
    await client.agent_report({"name": name, "status": "busy", "report_info": "3 of 7"})
    found = await client.agent_discover(text="quixotically", limit=5)
    assert [agent["name"] for agent in found] == [name]
    assert found.total == 1
    assert found[0]["mailbox"] == name
    assert [agent["name"] for agent in await client.agent_discover(tags=["client-test"], limit=5)] == [name]
    await client.agent_unregister(name=name)
    assert list(await client.agent_discover(text="quixotically")) == []
    with pytest.raises(mq9.NotFound):
        await client.agent_unregister(name)


async def test_agents_register_by_mailbox(client: mq9.Client, box: mq9.Mailbox) -> None:
    await client.agent_register({"name": "client.by.mailbox", "mailbox": box})
    await client.agent_unregister(box)


async def test_drain_answers_what_waits_and_then_refuses(shared_server: ServerProcess) -> None:
    client = await mq9.connect(shared_server.url)
    mailbox = await client.mailbox_create()
    sends = [asyncio.create_task(client.send(mailbox, b"x")) for _ in range(100)]
    await client.mailbox_info(mailbox)
    await client.drain()
    assert sorted(await asyncio.gather(*sends)) == list(range(1, 101))
    with pytest.raises(mq9.RequestError, match="closed"):
        await client.send(mailbox, b"late")
    await client.drain()  # safe to repeat
