"""Programs written for the published SDK run unchanged."""

from __future__ import annotations

import asyncio
import inspect
import json

import pytest

from mq9 import Consumer, Message, Mq9Client, Mq9Error, Priority
from tests.support.server import ServerProcess


def test_the_constructor_is_the_published_one() -> None:
    parameters = inspect.signature(Mq9Client).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "server": inspect.Parameter.empty, "request_timeout": 5.0, "reconnect_attempts": 5, "reconnect_delay": 2.0,
    }  # fmt: skip
    with pytest.raises(TypeError):
        Mq9Client()  # type: ignore[call-arg]


def test_messages_are_made_like_the_published_ones() -> None:
    message = Message(msg_id=1, payload=b"x", priority=Priority.NORMAL, create_time=5)
    assert message == Message(1, b"x", Priority("normal"), 5)
    assert (Priority.NORMAL.value, Priority.URGENT.value, Priority.CRITICAL.value) == ("normal", "urgent", "critical")


@pytest.mark.anyio
async def test_a_program_for_the_published_sdk(shared_server: ServerProcess) -> None:
    """Each call in the words, and with the results, of the published documentation."""
    async with Mq9Client(shared_server.url, request_timeout=5.0, reconnect_attempts=5, reconnect_delay=2.0) as client:
        address = await client.mailbox_create(name="compat.box", ttl=300)
        assert address == "compat.box"
        mid1 = await client.send(address, {"type": "task", "id": 1}, priority=Priority.NORMAL)
        await client.send(address, {"type": "interrupt"}, priority=Priority.URGENT)
        await client.send(address, {"type": "abort"}, priority=Priority.CRITICAL)
        await client.send(address, {"status": "running"}, key="status")
        mid_status = await client.send(address, {"status": "done"}, key="status")
        assert await client.send(address, {"delayed": True}, delay=5) == -1
        await client.send(address, b"\x00", tags=["billing", "vip"], ttl=10)

        messages = await client.fetch(address, group_name="workers", deliver="earliest", num_msgs=10)
        assert [message.priority.value for message in messages][:3] == ["critical", "urgent", "normal"]
        assert json.loads(messages[0].payload) == {"type": "abort"}
        await client.ack(address, "workers", messages[-1].msg_id)
        assert await client.fetch(address, group_name="workers", max_wait_ms=1) == []

        (status,) = await client.query(address, key="status", limit=5, since=1)
        assert (status.msg_id, json.loads(status.payload)) == (mid_status, {"status": "done"})
        await client.delete(address, mid1)
        with pytest.raises(Mq9Error, match="message not found"):
            await client.delete(address, mid1)

        handled: asyncio.Queue[int] = asyncio.Queue()
        errors: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

        async def handler(message: Message) -> None:
            if message.payload == b"\x00":
                raise ValueError("not this one")
            handled.put_nowait(message.msg_id)

        async def on_error(message: Message, failure: Exception) -> None:
            errors.put_nowait((message.msg_id, str(failure)))

        consumer = await client.consume(
            address, handler, group_name="more", deliver="earliest", auto_ack=True, error_handler=on_error
        )
        assert isinstance(consumer, Consumer)
        assert consumer.is_running
        assert sorted([await handled.get() for _ in range(3)]) == [2, 3, 5]
        assert (await errors.get())[1] == "not this one"
        await consumer.stop()
        assert (consumer.is_running, consumer.processed_count) == (False, 3)

        await client.agent_register({"name": "compat.agent", "mailbox": address, "payload": "reconciles invoices"})
        await client.agent_report({"name": "compat.agent", "mailbox": address, "report_info": "running"})
        agents = await client.agent_discover(text="reconciles", limit=5)
        assert [agent.get("mailbox") for agent in agents] == [address]
        assert isinstance(agents, list)
        await client.agent_unregister(address)
