"""What a queue group confirms for a member before it is said: how much, and what becomes of it when the member goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mq9.limits import PUSH_WINDOW_BYTES
from mq9.testing.broker import InProcessBroker, InProcessClient

WORK = b"MAILBOX.MSG.box.*"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[InProcessBroker]:
    broker = InProcessBroker(tmp_path, sync=False)
    broker.client().command("MAILBOX.CREATE", {"name": "box"})
    yield broker
    broker.close()


def payloads(client: InProcessClient) -> list[bytes]:
    """Take what was said to a client."""
    taken, client.received = client.received, []
    return [payload for _, _, payload in taken]


def on_receive(client: InProcessClient, act: Callable[[], None]) -> None:
    """Do something as soon as the client is said anything."""
    receive = client.receive

    def received(*args: object) -> None:
        receive(*args)  # type: ignore[arg-type]
        act()

    client.receive = received  # type: ignore[method-assign, assignment]


def test_a_message_whose_saying_ends_the_connection_goes_to_another(broker: InProcessBroker) -> None:
    """It was confirmed, and nobody had it: what a closing connection gives back did not include what was being said."""
    sender, full, other = broker.client(), broker.client(), broker.client()
    for payload in (b"a", b"b", b"c"):
        sender.send("box", payload)

    def end() -> None:
        full.ready = False
        full.taken = 0  # none of it reached the socket
        broker.broker.unsubscribe(full, full._subs.pop())
        broker.broker.client_closed(full)

    on_receive(full, end)
    full.subscribe(WORK, b"workers")
    assert payloads(full) == [b"a"]
    other.subscribe(WORK, b"workers")
    assert sorted(payloads(other)) == [b"a", b"b", b"c"]


def test_a_member_is_not_said_more_than_a_window_at_once(broker: InProcessBroker) -> None:
    """Hundreds of large messages were, and its connection was closed as a slow consumer's."""
    sender, member, other = broker.client(), broker.client(), broker.client()
    size_bytes = PUSH_WINDOW_BYTES // 4
    for number in range(100):
        sender.send("box", b"%03d" % number + bytes(size_bytes))
    on_receive(member, member.stall)
    member.subscribe(WORK, b"workers")
    got = payloads(member)
    assert len(got) <= 5
    other.subscribe(WORK, b"workers")
    got += payloads(other)
    member.unstall()
    assert sorted(got + payloads(member)) == [b"%03d" % number + bytes(size_bytes) for number in range(100)]


def test_what_was_taken_before_the_connection_closed_is_not_handed_out_after_a_restart(broker: InProcessBroker) -> None:
    """It had been written down as not taken, and that stayed written."""
    sender, member = broker.client(), broker.client()
    sender.send("box", b"a")

    def stall() -> None:
        member.ready = False
        member.taken = 0

    on_receive(member, stall)
    member.subscribe(WORK, b"workers")
    assert payloads(member) == [b"a"]
    member.taken = member.said  # late, but its socket took it
    member.close()
    sender.send("box", b"b")  # whose commit carries that away
    broker.restart()
    later = broker.client()
    later.subscribe(WORK, b"workers")
    assert payloads(later) == [b"b"]


def test_what_is_claimed_when_the_broker_stops_is_handed_out_after_its_start(broker: InProcessBroker) -> None:
    """It was confirmed by the last commit, and said to nobody."""
    sender, member = broker.client(), broker.client()
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    assert payloads(member) == [b"a"]
    sender.publish("MSG.SEND.box", b"b")
    while not broker.broker.partition.pushing.staged:
        broker.loop._soon.popleft()()
    broker.restart()
    assert payloads(member) == []
    later = broker.client()
    later.subscribe(WORK, b"workers")
    assert payloads(later) == [b"b"]
