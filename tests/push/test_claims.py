"""What a queue group confirms for a member before it is said: how much, and what becomes of it when the member goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from broker_node.router.sublist import Subscription
from mq9.errors import error
from mq9.limits import PUSH_RETRY_S, PUSH_WINDOW_BYTES, PUSH_WINDOW_MESSAGES
from mq9.storage.interface import Batch, Table
from mq9.storage.memory_store import MemoryStore
from mq9.testing.broker import InProcessBroker, InProcessClient

Factory = pytest.TempPathFactory
WORK = b"MAILBOX.MSG.box.*"
ONE = {"group_name": "workers", "deliver": "earliest", "config": {"num_msgs": 1, "max_wait_ms": 0}}


def payloads(client: InProcessClient) -> list[bytes]:
    """Take what was said to a client."""
    taken, client.received = client.received, []
    return [payload for _, _, payload in taken]


def said(client: InProcessClient) -> list[tuple[bytes, int]]:
    """Take what a client was pushed: payload, and how often it says that it was handed out; 1 for one that says nothing."""
    taken = [each for each in client.received if each[0].startswith(b"$mq9.AI.MAILBOX.MSG.")]
    client.received = []
    marks = [header.partition(b"mq9-deliveries: ")[2].partition(b"\r\n")[0] for _, header, _ in taken]
    return [(payload, int(mark or 1)) for (_, _, payload), mark in zip(taken, marks, strict=True)]


def unmarked(sent: Iterable[bytes]) -> list[tuple[bytes, int]]:
    """The same of messages that nobody can have had before."""
    return [(payload, 1) for payload in sent]


def stall_at_once(client: InProcessClient) -> None:
    """Its socket takes nothing of what it is said, from the first message on."""

    def stall() -> None:
        client.ready = False
        client.taken = 0

    on_receive(client, stall)


def run_until_claimed(broker: InProcessBroker) -> None:
    """Turn the loop until a group has claimed something, and that is on its way to the disk."""
    while not broker.broker.partition.pushing.staged:
        broker.loop._soon.popleft()()


def worker(client: InProcessClient) -> Subscription:
    """Its place in the group, for a test that turns the loop itself."""
    return Subscription(client, b"$mq9.AI." + WORK, b"workers", b"9")


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


def with_a_full_socket(broker: InProcessBroker, member: InProcessClient, count: int = 600) -> tuple[list[bytes], Subscription]:
    """What there was for a member when its socket became full, with several looks claimed for it that it was not said."""
    sender, pushing = broker.client(), broker.broker.partition.pushing
    sent = [b"%04d" % number for number in range(count)]
    for payload in sent:
        sender.publish("MSG.SEND.box", payload)
    broker.loop.run()
    sub = worker(member)
    broker.broker.subscribe(member, sub)
    run_until_claimed(broker)
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


def test_the_last_that_waits_for_a_full_socket_is_said_though_nothing_comes_behind_it(broker: InProcessBroker) -> None:
    member = broker.client()
    sent, _ = with_a_full_socket(broker, member, 300)
    [push] = broker.broker.partition.pushing.by_client[member.id]
    assert sum(len(claim.found) for _, claims in push.waiting for claim in claims) == len(sent)
    member.unstall()
    assert said(member) == unmarked(sent)


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
    assert said(other) == unmarked(sent)
    assert not any(broker.broker.partition.pushing.by_client.get(member.id, ()))


def test_what_was_taken_before_the_connection_closed_is_not_handed_out_after_a_restart(broker: InProcessBroker) -> None:
    """It had been written down as not taken, and that stayed written."""
    sender, member = broker.client(), broker.client()
    sender.send("box", b"a")
    stall_at_once(member)
    member.subscribe(WORK, b"workers")
    assert payloads(member) == [b"a"]
    member.taken = member.said  # late, but its socket took it
    member.close()
    sender.send("box", b"b")  # whose commit carries that away
    broker.restart()
    later = broker.client()
    later.subscribe(WORK, b"workers")
    assert said(later) == unmarked([b"b"])


def test_what_is_claimed_when_the_broker_stops_is_handed_out_after_its_start(broker: InProcessBroker) -> None:
    """It was confirmed by the last commit, and said to nobody."""
    sender, member = broker.client(), broker.client()
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    assert payloads(member) == [b"a"]
    sender.publish("MSG.SEND.box", b"b")
    run_until_claimed(broker)
    broker.restart()
    assert payloads(member) == []
    later = broker.client()
    later.subscribe(WORK, b"workers")
    assert said(later) == unmarked([b"b"])


def test_what_was_taken_just_before_the_broker_stops_is_not_handed_out_after_its_start(broker: InProcessBroker) -> None:
    """Nobody had looked at its socket since."""
    sender, member = broker.client(), broker.client()
    stall_at_once(member)
    member.subscribe(WORK, b"workers")
    for payload in (b"a", b"b"):
        sender.send("box", payload)
    assert payloads(member) == [b"a"]  # the other waits until the socket is free
    member.taken = member.said
    broker.restart()
    later = broker.client()
    later.subscribe(WORK, b"workers")
    assert said(later) == unmarked([b"b"])


class FailingStore(MemoryStore):
    """A store that takes nothing, or does nothing at all, as long as a test says so."""

    is_full = False
    is_broken = False

    def commit(self, batch: Batch) -> None:
        if self.is_full or self.is_broken:
            raise error("STORAGE_FULL" if self.is_full else "STORAGE_FAILED", reason="the disk is gone")
        super().commit(batch)

    def get(self, table: Table, key: bytes) -> bytes | None:
        if self.is_broken:
            raise error("STORAGE_FAILED", reason="the disk is gone")
        return super().get(table, key)


def claim_one(broker: InProcessBroker, sender: InProcessClient, member: InProcessClient) -> None:
    """A job claimed for a member, and on its way to the disk."""
    sender.command("MAILBOX.CREATE", {"name": "box"})
    member.subscribe(WORK, b"workers")
    sender.publish("MSG.SEND.box", b"a")
    run_until_claimed(broker)


def test_what_could_not_be_claimed_on_disk_is_not_said_before_it_is() -> None:
    """After a kill nobody would know that a member may have it."""
    store = FailingStore()
    broker = InProcessBroker(store=store)
    sender, member = broker.client(), broker.client()
    claim_one(broker, sender, member)
    store.is_full = True
    broker.loop.run()
    assert payloads(member) == []
    broker.advance(PUSH_RETRY_S)
    assert payloads(member) == []
    store.is_full = False
    broker.advance(PUSH_RETRY_S)
    assert said(member) == unmarked([b"a"])  # though nothing new came to the mailbox
    broker.close()


def test_what_could_not_be_claimed_is_not_said_though_memory_cannot_be_reset() -> None:
    """That reads the store, which was past reading; and the group still held the claims."""
    store = FailingStore()
    broker = InProcessBroker(store=store)
    member = broker.client()
    claim_one(broker, broker.client(), member)
    store.is_broken = True
    broker.loop.run()
    assert payloads(member) == []
    store.is_broken = False
    broker.close()
    assert payloads(member) == []


def test_a_member_that_takes_nothing_is_not_claimed_for(broker: InProcessBroker) -> None:
    """Tiny jobs: thousands of them are less than a window."""
    sender, member, other = broker.client(), broker.client(), broker.client()
    stall_at_once(member)
    member.subscribe(WORK, b"workers")
    other.subscribe(WORK, b"workers")
    sent = [b"%d" % number for number in range(3000)]
    for payload in sent:
        sender.publish("MSG.SEND.box", payload)
    broker.loop.run()
    kept, got = payloads(member), payloads(other)
    assert 0 < len(kept) <= 2 * PUSH_WINDOW_MESSAGES  # what one look gave it
    assert sorted(kept + got) == sorted(sent)
    member.unstall()
    assert payloads(member) == []


def test_what_was_deleted_while_it_was_claimed_is_not_said(broker: InProcessBroker) -> None:
    sender, member = broker.client(), broker.client()
    member.unsubscribe(member.subscribe(WORK, b"workers"))
    for payload in (b"a", b"b"):
        sender.send("box", payload)
    broker.broker.subscribe(member, worker(member))  # it is looked at next,
    deleted = sender.publish("MSG.DELETE.box.1")  # and the commit of this comes before that of the claims, or with it
    run_until_claimed(broker)
    assert sender.replies(deleted) == []
    broker.loop.run()
    assert len(sender.replies(deleted)) == 1
    assert said(member) == unmarked([b"b"])


def test_what_was_deleted_while_it_waited_for_a_full_socket_is_not_said(broker: InProcessBroker) -> None:
    member, sender = broker.client(), broker.client()
    sent, _ = with_a_full_socket(broker, member)
    for msg_id in (1, 300):
        assert sender.command(f"MSG.DELETE.box.{msg_id}")["error"] == ""
    member.unstall()
    assert said(member) == unmarked(sent[1:299] + sent[300:])


def test_nothing_is_said_of_a_mailbox_that_was_removed_meanwhile(broker: InProcessBroker) -> None:
    sender, member = broker.client(), broker.client()
    member.subscribe(WORK, b"workers")
    sender.publish("MSG.SEND.box", b"a")
    run_until_claimed(broker)
    assert sender.command("MAILBOX.REMOVE.box")["error"] == ""
    assert payloads(member) == []
    sender.command("MAILBOX.CREATE", {"name": "box"})
    sender.send("box", b"b")
    assert said(member) == unmarked([b"b"])


@pytest.mark.parametrize("queue", [b"", b"workers"], ids=["plain", "member"])
def test_a_mailbox_that_was_removed_before_the_first_look_at_it_says_nothing(queue: bytes, broker: InProcessBroker) -> None:
    sender, member = broker.client(), broker.client()
    sender.send("box", b"a")
    broker.broker.subscribe(member, Subscription(member, b"$mq9.AI." + WORK, queue, b"9"))
    assert sender.command("MAILBOX.REMOVE.box")["error"] == ""
    assert payloads(member) == []


def test_nothing_is_said_after_the_broker_has_stopped() -> None:
    broker = InProcessBroker(store=MemoryStore())  # which can be read still
    sender, member = broker.client(), broker.client()
    sender.command("MAILBOX.CREATE", {"name": "box"})
    sender.send("box", b"a")
    broker.broker.subscribe(member, Subscription(member, b"$mq9.AI." + WORK, b"", b"9"))
    broker.close()
    broker.loop.run()
    assert payloads(member) == []


def test_what_a_group_had_claimed_before_it_began_anew_is_said_once(broker: InProcessBroker) -> None:
    """By the group that it is now."""
    sender, member, other = broker.client(), broker.client(), broker.client()
    member.subscribe(WORK, b"workers")
    for payload in (b"a", b"b"):
        sender.publish("MSG.SEND.box", payload)
    run_until_claimed(broker)
    [fetched] = other.command("MSG.FETCH.box", {**ONE, "force_deliver": True})["messages"]
    assert fetched["msg_id"] == 1
    assert said(member) == unmarked([b"b"])


def test_what_waited_for_a_member_is_nothing_to_the_group_that_began_anew(broker: InProcessBroker) -> None:
    """It was given back to the group of before, whose row on disk took the place of the new one's."""
    member, other = broker.client(), broker.client()
    sent, _ = with_a_full_socket(broker, member)
    assert other.command("MSG.FETCH.box", {**ONE, "force_deliver": True})["messages"][0]["msg_id"] == 1
    assert other.command("MSG.ACK.box", {"group_name": "workers", "mail_address": "box", "msg_id": 1})["error"] == ""
    member.close()
    broker.restart()
    later = broker.client()
    later.subscribe(WORK, b"workers")
    assert said(later) == unmarked(sent[1:])


def test_what_a_member_takes_of_the_group_of_before_is_not_confirmed_for_the_new_one(broker: InProcessBroker) -> None:
    sender, member, other = broker.client(), broker.client(), broker.client()
    stall_at_once(member)
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    assert payloads(member) == [b"a"]
    assert other.command("MSG.FETCH.box", {**ONE, "force_deliver": True})["messages"][0]["msg_id"] == 1
    member.unstall()
    assert payloads(member) == []
    broker.restart()  # while the other has it in hand
    later = broker.client()
    later.subscribe(WORK, b"workers")
    assert said(later) == unmarked([b"a"])


def test_a_fetch_that_waits_gets_what_is_left_when_another_begins_its_group_anew(broker: InProcessBroker) -> None:
    sender, patient, other = broker.client(), broker.client(), broker.client()
    for payload in (b"a", b"b"):
        sender.send("box", payload)
    broker.client().command("MSG.FETCH.box", {**ONE, "config": {"num_msgs": 2, "max_wait_ms": 0}})
    waiting = patient.publish("MSG.FETCH.box", {**ONE, "config": {"max_wait_ms": 30_000}})
    broker.loop.run()
    assert other.command("MSG.FETCH.box", {**ONE, "force_deliver": True})["messages"][0]["msg_id"] == 1
    [(_, answer)] = patient.replies(waiting)
    assert b'"msg_id":2,' in answer


def test_a_member_of_a_group_that_a_fetch_just_makes_gets_what_that_leaves(broker: InProcessBroker) -> None:
    """It was not looked at again when the beginning of the group was on disk."""
    sender, member, other = broker.client(), broker.client(), broker.client()
    for payload in (b"a", b"b"):
        sender.send("box", payload)
    broker.broker.subscribe(member, worker(member))
    fetched = other.publish("MSG.FETCH.box", ONE)
    broker.loop.run()
    assert len(other.replies(fetched)) == 1
    assert said(member) == unmarked([b"b"])


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


def offered(directory: Path) -> list[tuple[bytes, int]]:
    """What the group gets of a broker that starts there, as `said` has it."""
    broker = InProcessBroker(directory, sync=False)
    client = broker.client()
    client.subscribe(WORK, b"workers")
    client.send("box", b"new")
    broker.close()
    return said(client)


def test_what_a_socket_took_is_known_after_a_kill(broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory) -> None:
    """Its confirmation was to come with the next commit."""
    left = tmp_path_factory.mktemp("left") / "data"
    take_and_kill(broker, left, tmp_path)
    assert offered(left) == [(b"new", 1)]
    assert offered(left) == [(b"new", 1)]


def test_what_is_in_doubt_is_offered_again_in_order_and_marked(
    broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory
) -> None:
    """Without the receipts: the machine lost its power, or another node has the mailbox now."""
    left = tmp_path_factory.mktemp("left") / "data"
    take_and_kill(broker, left, tmp_path)
    (left / "pushed.receipts").unlink()
    assert offered(left) == [(b"c", 2), (b"d", 2), (b"new", 1)]
    assert offered(left) == [(b"new", 1)]


def test_what_is_in_doubt_stays_in_doubt_over_the_next_end(
    broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory
) -> None:
    """Also when the group has claimed something else meanwhile."""
    left = tmp_path_factory.mktemp("left") / "data"
    take_and_kill(broker, left, tmp_path)
    (left / "pushed.receipts").unlink()
    again = InProcessBroker(left, sync=False)
    member = again.client()
    member.subscribe(b"MAILBOX.MSG.box.critical", b"workers")
    again.client().send("box", b"e", priority="critical")
    assert payloads(member) == [b"e"]
    again.close()
    assert offered(left) == [(b"c", 2), (b"d", 2), (b"new", 1)]


def test_a_receipt_that_was_torn_or_changed_is_none(broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory) -> None:
    left = tmp_path_factory.mktemp("left") / "data"
    take_and_kill(broker, left, tmp_path)
    receipts = left / "pushed.receipts"
    whole = receipts.read_bytes()
    receipts.write_bytes(bytes([whole[0] ^ 1]) + whole[1:] + whole[:7])
    assert offered(left) == [(b"c", 2), (b"d", 2), (b"new", 1)]


def test_what_is_in_doubt_where_nothing_may_come_twice_is_a_dead_letter(tmp_path: Path) -> None:
    broker = InProcessBroker(tmp_path / "data", sync=False)
    broker.client().command("MAILBOX.CREATE", {"name": "box", "max_deliver": 1, "dead_letter": "dead"})
    left = tmp_path / "left"
    take_and_kill(broker, left, tmp_path / "data")
    broker.close()
    (left / "pushed.receipts").unlink()
    assert offered(left) == [(b"new", 1)]
    after = InProcessBroker(left, sync=False)
    assert len(after.client().command("MSG.QUERY.dead", {})["messages"]) == 2
    after.close()


def test_an_ack_and_a_nack_of_what_is_claimed_change_nothing(broker: InProcessBroker) -> None:
    """It is the member's until its socket has taken it."""
    sender, member, other = broker.client(), broker.client(), broker.client()
    stall_at_once(member)
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
    stall_at_once(member)
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    broker.close()
    assert broker.broker.holds_untaken(member)
    broker.broker.client_closed(member)
    assert offered(tmp_path) == [(b"a", 2), (b"new", 1)]


def stop_halfway(broker: InProcessBroker, member: InProcessClient) -> None:
    """A member whose socket takes a job late: the broker has just heard of that, and committed nothing since."""
    sender = broker.client()
    stall_at_once(member)
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    assert payloads(member) == [b"a"]
    member.ready = True
    broker.broker.client_writable(member)


def test_what_a_socket_took_late_is_known_after_a_kill(
    broker: InProcessBroker, tmp_path: Path, tmp_path_factory: Factory
) -> None:
    left = tmp_path_factory.mktemp("left") / "data"
    stop_halfway(broker, broker.client())
    shutil.copytree(tmp_path, left)
    assert offered(left) == [(b"new", 1)]


@pytest.mark.parametrize("most", [0, 1], ids=["any number of times", "once"])
def test_what_a_member_that_went_had_not_taken_is_not_in_doubt(most: int, tmp_path: Path, tmp_path_factory: Factory) -> None:
    """Neither here, nor for who starts after a kill: else it came marked, or became a dead letter."""
    broker = InProcessBroker(tmp_path, sync=False)
    sender, member, other = broker.client(), broker.client(), broker.client()
    sender.command("MAILBOX.CREATE", {"name": "box", "max_deliver": most, "dead_letter": "dead"})
    stall_at_once(member)
    member.subscribe(WORK, b"workers")
    sender.send("box", b"a")
    assert payloads(member) == [b"a"]
    member.close()
    left = tmp_path_factory.mktemp("left") / "data"
    shutil.copytree(tmp_path, left)
    assert offered(left) == [(b"a", 1), (b"new", 1)]
    other.subscribe(WORK, b"workers")
    assert said(other) == unmarked([b"a"])
    broker.close()
