"""The client for programs without an event loop."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import mq9
from tests.support.server import ServerProcess


@pytest.fixture
def sync(shared_server: ServerProcess) -> Iterator[mq9.SyncClient]:
    with mq9.connect_sync(shared_server.url) as client:
        yield client


def test_every_command(sync: mq9.SyncClient) -> None:
    mailbox = sync.mailbox_create("sync.box", public=True)
    assert [info.mail_address for info in sync.mailbox_list(prefix="sync.").mailboxes] == [mailbox]
    receipt = sync.send(mailbox, b"1", priority=mq9.Priority.URGENT, tags=["a"])
    assert [message.payload for message in sync.fetch(mailbox, group_name="g", deliver="earliest")] == [b"1"]
    sync.nack(mailbox, "g", receipt)
    assert [message.deliveries for message in sync.fetch(mailbox, group_name="g")] == [2]
    sync.ack(mailbox, "g", receipt)
    assert [message.tags for message in sync.query(mailbox)] == [["a"]]
    sync.delete(mailbox, receipt)
    assert sync.mailbox_info(mailbox).messages == 0
    sync.agent_register({"name": "sync.agent", "payload": "synchronises"})
    sync.agent_report({"name": "sync.agent", "status": "ok"})
    assert [agent["name"] for agent in sync.agent_discover(text="synchronises")] == ["sync.agent"]
    sync.agent_unregister(name="sync.agent")
    sync.mailbox_remove(mailbox)
    with pytest.raises(mq9.NotFound):
        sync.mailbox_info(mailbox)


def test_it_has_every_method_of_the_async_client() -> None:
    commands = {name for name, value in vars(mq9.Client).items() if inspect.iscoroutinefunction(value) and name[0] != "_"}
    assert commands - {"connect"} <= set(dir(mq9.SyncClient))
    assert inspect.signature(mq9.SyncClient.send) == inspect.signature(mq9.Client.send)


def test_a_loop_over_messages_confirms_as_it_goes(sync: mq9.SyncClient) -> None:
    mailbox = sync.mailbox_create()
    for number in range(5):
        sync.send(mailbox, str(number))
    seen = []
    for message in sync.consume(mailbox, group_name="g", deliver="earliest", max_wait_ms=50):
        seen.append(message.text)
        if len(seen) == 4:
            break
    assert seen == ["0", "1", "2", "3"]
    rest = sync.fetch(mailbox, group_name="g", max_wait_ms=20_000, num_msgs=10)
    assert {message.text for message in rest} <= {"3", "4"}
    sync.mailbox_remove(mailbox)


def test_messages_can_be_confirmed_and_given_back_by_hand(sync: mq9.SyncClient) -> None:
    mailbox = sync.mailbox_create()
    sync.send(mailbox, b"1")
    with sync.consume(mailbox, group_name="g", deliver="earliest", auto_ack=False) as consumer:
        for message in consumer:
            if message.deliveries == 1:
                consumer.nack(message)
                continue
            consumer.ack(message)
            break
    assert sync.mailbox_info(mailbox).groups[0].lag == 0
    sync.mailbox_remove(mailbox)


def test_many_threads_may_call(sync: mq9.SyncClient) -> None:
    mailbox = sync.mailbox_create()
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda number: sync.send(mailbox, str(number)), range(100)))
    assert sorted(receipts) == list(range(1, 101))
    sync.mailbox_remove(mailbox)


def test_errors_are_the_same_ones(sync: mq9.SyncClient) -> None:
    with pytest.raises(mq9.NotFound):
        sync.send("no.such.box", b"x")


def test_its_thread_ends_with_it(shared_server: ServerProcess) -> None:
    before = threading.active_count()
    client = mq9.connect_sync(shared_server.url)
    assert threading.active_count() == before + 1
    client.close()
    client.close()
    assert client.closed
    assert threading.active_count() == before
    with pytest.raises(mq9.RequestError, match="closed"):
        client.mailbox_create()
    with pytest.raises(mq9.UnavailableError):
        mq9.connect_sync("nats://127.0.0.1:1")
    assert threading.active_count() == before
