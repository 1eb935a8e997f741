"""Going away: lame duck for those connected, nothing lost, exit 0, and no waiting for nobody."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from typing import Any

import nats
import pytest

from tests.broker.conftest import Host
from tests.broker.hosted import HOST
from tests.support.raw import RawClient


def test_without_clients_the_server_stops_at_once(start_server: Any) -> None:
    server = start_server(lame_duck_grace_s=3600, lame_duck_close_s=3600)
    server.process.signal(signal.SIGTERM)
    assert server.process.wait() == 0


def test_clients_are_told_and_the_server_stops_when_they_have_gone(host: Host) -> None:
    hosted = host(lame_duck_grace_s=3600)
    clients = [hosted.raw() for _ in range(3)]
    hosted.begin_drain()
    for client in clients:
        assert client.read_info()["ldm"] is True
        client.send(b"SUB a 1\r\nPUB a 1\r\nx\r\n")
        assert len(client.flush()) == 1  # it is still served
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, hosted.port), timeout=10)
    for client in clients:
        client.close()
    hosted.wait_stopped()


def test_clients_that_stay_are_closed_after_the_grace(host: Host) -> None:
    hosted = host(lame_duck_grace_s=0.01, lame_duck_close_s=0.05)
    clients = [hosted.raw() for _ in range(5)]
    hosted.begin_drain()
    for client in clients:
        assert client.expect_closed()[0].verb == b"INFO"
    hosted.wait_stopped()


def test_a_second_signal_does_not_wait(host: Host) -> None:
    hosted = host(lame_duck_grace_s=3600, lame_duck_close_s=3600)
    client = hosted.raw()
    hosted.begin_drain()
    client.read_info()
    hosted.begin_drain()
    client.expect_closed()
    hosted.wait_stopped()


def test_what_was_asked_before_the_end_is_answered(start_server: Any) -> None:
    """Every SEND that reached the server before it stopped is in the store, and every answer says so truly."""
    server = start_server(lame_duck_grace_s=0, lame_duck_close_s=0.2)
    client = server.raw()
    client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": "last"})
    client.sub(b"r.*")
    client.flush()
    for number in range(2000):
        client.pub(b"$mq9.AI.MSG.SEND.last", b"%d" % number, reply=b"r.%d" % number)
    client.expect(b"MSG")  # it has begun
    server.process.signal(signal.SIGTERM)
    answered = [json.loads(frame.payload)["msg_id"] for frame in client.expect_closed() if frame.verb == b"MSG"]
    assert server.process.wait() == 0
    server.start()
    stored = set()
    reader = server.raw()
    while True:
        body = {"group_name": "g", "deliver": "earliest", "config": {"num_msgs": 1000, "max_wait_ms": 0}}
        messages = reader.call(b"$mq9.AI.MSG.FETCH.last", body)["messages"]
        if not messages:
            break
        stored |= {message["msg_id"] for message in messages}
        reader.call(b"$mq9.AI.MSG.ACK.last", {"group_name": "g", "msg_id": messages[-1]["msg_id"]})
    assert not set(answered) - stored


@pytest.mark.anyio
async def test_an_unmodified_client_drains(start_server: Any) -> None:
    """nats-py's drain: no new messages, those under way handled, then closed."""
    server = start_server()
    seen: list[bytes] = []
    client = await nats.connect(server.url)
    sender = await nats.connect(server.url)

    async def handle(message: Any) -> None:
        seen.append(message.data)

    await client.subscribe("work", "workers", cb=handle)
    await client.flush()
    for number in range(500):
        await sender.publish("work", b"%d" % number)
    await sender.flush()
    await client.drain()
    assert client.is_closed
    assert seen == [b"%d" % number for number in range(500)]
    await sender.publish("work", b"late")
    await sender.drain()


@pytest.mark.anyio
async def test_an_unmodified_client_is_told_of_the_lame_duck(start_server: Any) -> None:
    server = start_server(lame_duck_grace_s=3600)
    told = asyncio.Event()

    async def on_lame_duck() -> None:
        told.set()

    client = await nats.connect(server.url, lame_duck_mode_cb=on_lame_duck)
    server.process.signal(signal.SIGTERM)
    await asyncio.wait_for(told.wait(), 20)
    await client.close()
    assert server.process.wait() == 0


def test_a_client_that_does_not_read_cannot_hold_the_exit_up(start_server: Any) -> None:
    server = start_server(lame_duck_grace_s=0.01, lame_duck_close_s=0.01)
    slow = RawClient(HOST, server.port)
    slow.connect()
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sub(b"flood")
    slow.flush()
    sender = server.raw()
    for _ in range(70):
        sender.send((b"PUB flood 1024\r\n" + b"x" * 1024 + b"\r\n") * 100)
    sender.flush()
    assert server.stop() == 0
    slow.close()
