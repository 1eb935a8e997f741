"""UNSUB and drain in the middle of a replay that is far larger than any buffer between the two ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import nats
import pytest
from nats.aio.msg import Msg

from tests.push.mail import PUSHED, fill, make, member, numbers, read
from tests.support.server import ServerProcess

COUNT = 16_384
SIZE_BYTES = 1024
ALL = list(range(1, COUNT + 1))


@pytest.fixture(scope="module")
def large(session_server: ServerProcess) -> Iterator[str]:
    """A mailbox of 16 MiB that everyone reads and nobody changes."""
    make(session_server, "replay.large")
    fill(session_server, "replay.large", ALL, SIZE_BYTES)
    yield "replay.large"
    session_server.raw().call(b"$mq9.AI.MAILBOX.REMOVE.replay.large")


def test_a_whole_replay_is_everything_in_order(shared_server: ServerProcess, large: str) -> None:
    client, _ = member(shared_server, large)
    assert read(client, COUNT) == ALL
    assert client.flush() == []


def test_unsub_ends_a_plain_replay(shared_server: ServerProcess, large: str) -> None:
    client, sid = member(shared_server, large, is_slow=True)
    got = read(client, 100)
    client.send(b"UNSUB " + sid + b"\r\n")
    got += numbers(client.flush())  # what was on its way
    assert len(got) < COUNT
    assert got == ALL[: len(got)]
    assert client.flush() == []


def test_unsub_after_so_many_ends_a_plain_replay_there(shared_server: ServerProcess, large: str) -> None:
    client = shared_server.raw()
    client.send(b"SUB " + PUSHED + large.encode() + b".* 7\r\nUNSUB 7 100\r\n")
    assert numbers(client.flush()) + numbers(client.flush()) == ALL[:100]


def test_what_a_member_did_not_get_before_its_unsub_is_the_groups(shared_server: ServerProcess, large: str) -> None:
    one, sid = member(shared_server, large, b"unsub", is_slow=True)
    got = read(one, 100)
    one.send(b"UNSUB " + sid + b"\r\n")
    got += numbers(one.flush())
    assert len(got) < COUNT
    other, _ = member(shared_server, large, b"unsub")
    got += read(other, COUNT - len(got))
    assert sorted(got) == ALL
    assert one.flush() == other.flush() == []


def test_what_a_member_did_not_want_is_the_groups(shared_server: ServerProcess, large: str) -> None:
    one = shared_server.raw()
    one.send(b"SUB " + PUSHED + large.encode() + b".* limited 7\r\nUNSUB 7 100\r\n")
    got = read(one, 100)
    other, _ = member(shared_server, large, b"limited")
    got += read(other, COUNT - 100)
    assert sorted(got) == ALL
    assert one.flush() == other.flush() == []


def test_a_subscription_that_comes_back_to_its_group_goes_on_where_it_was(shared_server: ServerProcess, large: str) -> None:
    client, sid = member(shared_server, large, b"back", is_slow=True)
    got = read(client, 10)
    for _ in range(20):
        client.send(b"UNSUB " + sid + b"\r\n")
        got += numbers(client.flush())
        sid = client.sub(PUSHED + large.encode() + b".*", b"back")
        got += read(client, min(10, COUNT - len(got)))
    got += read(client, COUNT - len(got))
    assert sorted(got) == ALL
    assert client.flush() == []


@pytest.mark.anyio
@pytest.mark.parametrize("by", ["subscription", "connection"])
async def test_what_is_handled_before_a_drain_ends_and_what_is_left_are_all_there_is(
    by: str, shared_server: ServerProcess, large: str
) -> None:
    """nats-py: UNSUB, then what has come already is handled, then the end.

    nats-py writes the PING of a drain ahead of its UNSUB, so the PONG does not say that nothing follows; what follows it drops
    (docs/push.md). It counts what it drops, and the group was handed that: the rest begins behind it.
    """
    got: list[int] = []
    some = asyncio.Event()

    async def handle(message: Msg) -> None:
        got.append(int(message.data))
        if len(got) == 100:
            some.set()

    connection = await nats.connect(shared_server.url)
    subscription = await connection.subscribe(f"$mq9.AI.MAILBOX.MSG.{large}.*", queue=f"drain.{by}", cb=handle)
    await some.wait()
    if by == "subscription":
        await subscription.drain()  # type: ignore[no-untyped-call]
        await connection.flush()  # which comes after the UNSUB
    else:
        await connection.drain()
    came = connection.stats["in_msgs"]
    assert 100 <= len(got) <= came <= COUNT
    other, _ = member(shared_server, large, f"drain.{by}".encode())
    rest = read(other, COUNT - came)
    assert got == ALL[: len(got)]
    assert sorted(rest) == ALL[came:]
    assert other.flush() == []
    await connection.close()
