"""What a queue group confirms for a member before it is said: how much, and what becomes of it when the member goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from broker_node.router.sublist import Subscription
from mq9.limits import PUSH_WINDOW_BYTES, PUSH_WINDOW_MESSAGES
from mq9.testing.broker import InProcessBroker, InProcessClient

Factory = pytest.TempPathFactory
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


def with_a_full_socket(broker: InProcessBroker, member: InProcessClient) -> tuple[list[bytes], Subscription]:
    """What there was for a member when its socket became full, with several looks claimed for it that it was not said."""
    sender, pushing = broker.client(), broker.broker.partition.pushing
    sent = [b"%04d" % number for number in range(600)]
    for payload in sent:
        sender.publish("MSG.SEND.box", payload)
    broker.loop.run()
    sub = Subscription(member, b"$mq9.AI." + WORK, b"workers", b"9")
    broker.broker.subscribe(member, sub)
    while not pushing.staged:
        broker.loop._soon.popleft()()
    pushing.pump(pushing.boxes.active[b"box"])  # while the first look is on its way to the disk
    assert len(pushing.staged) == 2
    member.stall()
    broker.loop.run()
    assert payloads(member) == []
    return sent, sub


def test_what_waits_for_a_full_socket_is_said_a_look_at_a_time(broker: InProcessBroker) -> None:
    """All of it was one write, thousands of jobs, and a kill before its note repeated them all."""
    member = broker.client()
    sent, _ = with_a_full_socket(broker, member)
    writes: list[int] = []
    member.flush = lambda: writes.append(len(member.received))  # type: ignore[method-assign]
    member.unstall()
    assert payloads(member) == sent
    assert max(later - former for former, later in pairwise([0, *writes])) < 2 * PUSH_WINDOW_MESSAGES


@pytest.mark.parametrize("how", ["unsubscribes", "closes", "broker stops"])
def test_what_waits_for_a_full_socket_is_for_others_when_its_member_goes(broker: InProcessBroker, how: str) -> None:
    member = broker.client()
    sent, sub = with_a_full_socket(broker, member)
    match how:
        case "unsubscribes":
            broker.broker.unsubscribe(member, sub)
        case "closes":
            member.close()
        case _:
            broker.restart()
    other = broker.client()
    other.subscribe(WORK, b"workers")
    broker.loop.run()
    assert payloads(other) == sent
    assert not any(broker.broker.partition.pushing.by_client.get(member.id, ()))


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


# --- Killed: a broker that starts on what this one has written so far ----------------------------------------------


def take_and_kill(broker: InProcessBroker, left: Path, directory: Path) -> None:
    """Two messages whose handing out is confirmed on disk, then two that the socket takes just before the broker is killed.
    What that leaves behind is in `left`."""
    sender, member = broker.client(), broker.client()
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    sender.send("box", b"b")
    sender.publish("MSG.SEND.box", b"c")
    sender.publish("MSG.SEND.box", b"d")
    while len(member.received) < 4:
        broker.loop._soon.popleft()()
    assert payloads(member) == [b"a", b"b", b"c", b"d"]
    shutil.copytree(directory, left)


def offered(directory: Path) -> list[tuple[bytes, bool]]:
    """What the group gets of a broker that starts there: payload, and whether it is marked as maybe handed out before."""
    broker = InProcessBroker(directory, sync=False)
    client = broker.client()
    client.subscribe(WORK, b"workers")
    client.send("box", b"new")
    broker.close()
    said = [each for each in client.received if each[0].startswith(b"$mq9.AI.MAILBOX.MSG.")]
    return [(payload, b"mq9-deliveries: 2\r\n" in header) for _, header, payload in said]


def test_what_a_socket_took_is_known_after_a_kill(broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory) -> None:
    """Its confirmation was to come with the next commit."""
    left = tmp_path_factory.mktemp("left") / "data"
    take_and_kill(broker, left, tmp_path)
    assert offered(left) == [(b"new", False)]
    assert offered(left) == [(b"new", False)]


def test_what_is_in_doubt_is_offered_again_in_order_and_marked(
    broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory
) -> None:
    """Without the receipts: the machine lost its power, or another node has the mailbox now."""
    left = tmp_path_factory.mktemp("left") / "data"
    take_and_kill(broker, left, tmp_path)
    (left / "pushed.receipts").unlink()
    assert offered(left) == [(b"c", True), (b"d", True), (b"new", False)]
    assert offered(left) == [(b"new", False)]


def test_a_receipt_that_was_torn_or_changed_is_none(broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory) -> None:
    left = tmp_path_factory.mktemp("left") / "data"
    take_and_kill(broker, left, tmp_path)
    receipts = left / "pushed.receipts"
    whole = receipts.read_bytes()
    receipts.write_bytes(bytes([whole[0] ^ 1]) + whole[1:] + whole[:7])
    assert offered(left) == [(b"c", True), (b"d", True), (b"new", False)]


def test_what_is_in_doubt_where_nothing_may_come_twice_is_a_dead_letter(tmp_path: Path) -> None:
    broker = InProcessBroker(tmp_path / "data", sync=False)
    broker.client().command("MAILBOX.CREATE", {"name": "box", "max_deliver": 1, "dead_letter": "dead"})
    left = tmp_path / "left"
    take_and_kill(broker, left, tmp_path / "data")
    broker.close()
    (left / "pushed.receipts").unlink()
    assert offered(left) == [(b"new", False)]
    after = InProcessBroker(left, sync=False)
    assert len(after.client().command("MSG.QUERY.dead", {})["messages"]) == 2
    after.close()


def test_an_ack_and_a_nack_of_what_is_claimed_change_nothing(broker: InProcessBroker) -> None:
    """It is the member's until its socket has taken it."""
    sender, member, other = broker.client(), broker.client(), broker.client()

    def stall() -> None:
        member.ready = False
        member.taken = 0

    on_receive(member, stall)
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    for body in ({"nack": True}, {}):
        assert sender.command("MSG.ACK.box", {"group_name": "workers", "mail_address": "box", "msg_id": 1, **body})["error"] == ""
    other.subscribe(WORK, b"workers")
    assert payloads(other) == []
    member.close()
    assert payloads(other) == [b"a"]


def test_a_connection_that_outlives_the_broker_leaves_what_it_holds_in_doubt(broker: InProcessBroker, tmp_path: Path) -> None:
    """There is nothing left to write to when it closes."""
    sender, member = broker.client(), broker.client()

    def stall() -> None:
        member.ready = False
        member.taken = 0

    on_receive(member, stall)
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    broker.close()
    assert broker.broker.holds_untaken(member)
    broker.broker.client_closed(member)
    assert offered(tmp_path) == [(b"a", True), (b"new", False)]
