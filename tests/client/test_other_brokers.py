"""Brokers that speak the published protocol and no more: no streams, no `hold`, no error codes, no lists of ids."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import mq9
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.anyio


class _PublishedBroker:
    """One mailbox and one group behind a plain NATS server, answering as the published broker does: a FETCH gives again
    what is not confirmed, an ACK names one id and confirms everything up to it."""

    def __init__(self, count: int) -> None:
        self.confirmed = 0
        self.count = count
        self.fetches: list[dict[str, Any]] = []

    async def answer(self, msg: Any) -> None:
        body = json.loads(msg.data) if ".SEND." not in msg.subject else {}
        if ".FETCH." in msg.subject:
            self.fetches.append(body)
            first = self.confirmed + 1
            last = min(self.count, first + body["config"]["num_msgs"] - 1)
            reply: dict[str, Any] = {"error": "", "messages": [self._message(each) for each in range(first, last + 1)]}
        elif ".ACK." in msg.subject:
            self.confirmed = max(self.confirmed, body["msg_id"])
            reply = {"error": ""}
        elif ".QUERY." in msg.subject:
            reply = {"error": "mailbox other does not exist"}
        else:
            reply = {"error": "", "msg_id": 7}
        await msg.respond(json.dumps(reply).encode())

    def _message(self, msg_id: int) -> dict[str, Any]:
        payload = base64.b64encode(str(msg_id).encode()).decode()
        return {"msg_id": msg_id, "payload": payload, "priority": "normal", "create_time": 1_700_000_000}


@asynccontextmanager
async def _published(server: NatsServer, count: int) -> AsyncIterator[tuple[_PublishedBroker, mq9.Client]]:
    broker = _PublishedBroker(count)
    async with mq9.connect(server.url) as behind, mq9.connect(server.url) as client:
        nats = behind._connection.nats
        subscription = await nats.subscribe("$mq9.AI.MSG.>", cb=broker.answer)
        await nats.flush()
        yield broker, client
        await subscription.unsubscribe()


async def test_fetch_asks_for_a_stream_and_takes_what_it_gets(nats_server: NatsServer) -> None:
    async with _published(nats_server, 3) as (broker, client):
        for stream in (True, False, None):
            messages = await client.fetch("box", group_name="g", deliver="earliest", stream=stream)
            assert [message.payload for message in messages] == [b"1", b"2", b"3"]
        first = broker.fetches[0]
    # Nothing in it is what the published clients do not send, but for words that such a broker passes over.
    assert first["config"] == {"num_msgs": 100, "max_wait_ms": 500, "stream": True}
    assert (first["group_name"], first["deliver"], first["force_deliver"]) == ("g", "earliest", False)


async def test_a_consumer_handles_nothing_twice(nats_server: NatsServer) -> None:
    async with asyncio.timeout(30), _published(nats_server, 40) as (broker, client):
        seen: list[int] = []
        async with client.consume("box", group_name="g", deliver="earliest", num_msgs=8) as consumer:
            async for message in consumer:
                seen.append(message.msg_id)
                if len(seen) == 40:
                    await message.ack()
                    break
        assert seen == list(range(1, 41))
        assert broker.confirmed == 40


async def test_errors_without_codes_and_receipts_without_more(nats_server: NatsServer) -> None:
    async with _published(nats_server, 0) as (_, client):
        with pytest.raises(mq9.Mq9Error, match="mailbox other does not exist") as caught:
            await client.query("other")
        assert not caught.value.retryable
        receipt = await client.send("box", b"x")
        assert (receipt, receipt.duplicate) == (7, False)
