"""Subscriptions to mailboxes (the older dialect) whose leader is another node: pushed to over the link, with flow control, and
moved along with the mailbox."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec
import pytest

from broker_node.router.sublist import Subscription
from mq9.limits import PUSH_AHEAD_BYTES, PUSH_WINDOW_BYTES
from mq9.testing.broker import InProcessClient
from tests.cluster.nodes import Cluster3


@pytest.fixture
def cluster() -> Iterator[Cluster3]:
    made = Cluster3()
    yield made
    made.close()


def heard(*clients: InProcessClient) -> list[bytes]:
    """Payloads pushed to the clients so far, taken."""
    found = []
    for client in clients:
        found += [payload for subject, _, payload in client.received if subject.startswith(b"$mq9.AI.MAILBOX.MSG.")]
        client.received.clear()
    return found


def offered(client: InProcessClient) -> list[tuple[bytes, bool]]:
    """What was pushed to a client so far, taken: payload, and whether it is marked as maybe handed out before."""
    said, client.received = client.received, []
    return [(payload, b"mq9-deliveries: 2\r\n" in header) for _, header, payload in said]


def a_box(cluster: Cluster3, at: str = "b", **fields: object) -> str:
    box = cluster.address_at(at)
    cluster[at].client().command("MAILBOX.CREATE", {"name": box, **fields})
    return box


def tail(box: str, word: str = "*") -> bytes:
    return f"MAILBOX.MSG.{box}.{word}".encode()


def test_a_subscriber_gets_what_is_stored_and_what_comes(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob = cluster["a"].client(), cluster["b"].client()
    bob.send(box, b"stored", priority="high")
    sub = alice.subscribe(tail(box))
    bob.send(box, b"live")
    assert [(subject, payload) for subject, _, payload in alice.received] == [
        (b"$mq9.AI.MAILBOX.MSG.%b.high" % box.encode(), b"stored"),
        (b"$mq9.AI.MAILBOX.MSG.%b.normal" % box.encode(), b"live"),
    ]
    assert b"mq9-msg-id: 1" in alice.received[0][1]
    heard(alice)
    alice.unsubscribe(sub)
    bob.send(box, b"unheard")
    assert heard(alice) == []
    assert cluster["b"].mailboxes.stats()["subscribers"] == 0


def test_a_subscription_may_name_a_priority_and_come_before_its_mailbox(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.subscribe(tail(box, "low"))
    bob.command("MAILBOX.CREATE", {"name": box})
    bob.send(box, b"normal")
    bob.send(box, b"low", priority="low")
    assert heard(alice) == [b"low"]


def test_the_published_sdk_gets_its_envelope(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice = cluster["a"].client("robustmq-mq9-python")
    alice.subscribe(tail(box))
    cluster["b"].client().send(box, b"hello", priority="urgent")
    [envelope] = [msgspec.json.decode(payload) for payload in heard(alice)]
    assert (envelope["payload"], envelope["priority"]) == ("aGVsbG8=", "high")


def test_members_of_a_group_on_two_nodes_share_its_messages(cluster: Cluster3) -> None:
    box = a_box(cluster)
    members = [cluster[name].client() for name in "aabb"]
    for member in members:
        member.subscribe(tail(box), b"workers")
    bob = cluster["b"].client()
    jobs = [b"job %d" % number for number in range(200)]
    for job in jobs:
        bob.send(box, job)
    shares = [heard(member) for member in members]
    assert sorted(chain(*shares)) == sorted(jobs)
    assert all(shares)
    assert bob.command(f"MAILBOX.INFO.{box}")["groups"] == [{"name": "workers", "lag": 0, "unacked": 0}]


def test_nobody_is_pushed_more_than_its_socket_takes(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.subscribe(tail(box))
    cluster.run()
    alice.stall()
    for number in range(64):
        bob.send(box, bytes([number]) * 64 * 1024)
    said = len(alice.received) * 64 * 1024
    assert said < PUSH_AHEAD_BYTES + 2 * PUSH_WINDOW_BYTES
    alice.unstall()
    cluster.advance(1)
    assert [payload[0] for payload in heard(alice)] == list(range(64))


def test_what_a_member_did_not_take_goes_to_others_when_it_closes(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob, carol = cluster["a"].client(), cluster["b"].client(), cluster["a"].client()
    alice.subscribe(tail(box), b"workers")
    bob.send(box, b"taken")
    assert heard(alice) == [b"taken"]
    alice.stall()
    bob.send(box, b"not taken")
    assert cluster["a"].broker.holds_untaken(alice)
    carol.subscribe(tail(box), b"workers")
    assert heard(carol) == []
    alice.close()
    assert heard(carol) == [b"not taken"]


def test_what_it_took_stays_taken_when_it_closes(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob, carol = cluster["a"].client(), cluster["b"].client(), cluster["b"].client()
    alice.subscribe(tail(box), b"workers")
    bob.send(box, b"one")
    bob.send(box, b"two")
    assert not cluster["a"].broker.holds_untaken(alice)
    alice.close()
    carol.subscribe(tail(box), b"workers")
    cluster.advance(1)
    assert heard(carol) == []


@pytest.mark.parametrize(("client_at", "first", "second"), [("a", "b", "c"), ("a", "b", "a"), ("b", "b", "a")])
def test_a_plain_subscription_follows_its_mailbox_and_misses_nothing(client_at: str, first: str, second: str) -> None:
    """Between two other nodes, to the client's own, and away from it: every message once."""
    cluster = Cluster3("abc")
    box = a_box(cluster, first)
    alice, bob = cluster[client_at].client(), cluster["c"].client()
    alice.subscribe(tail(box))
    for number in range(5):
        bob.send(box, b"before %d" % number, priority=("normal", "low")[number % 2])
    before = heard(alice)
    assert len(before) == 5
    cluster.take_away(cluster.slot(box))
    cluster.advance(0.5)
    cluster.give(cluster.slot(box), second)
    for number in range(5):
        bob.send(box, b"after %d" % number)
    cluster.advance(1)
    assert heard(alice) == [b"after %d" % number for number in range(5)]
    cluster.close()


def test_a_member_joins_its_group_again_where_the_mailbox_went() -> None:
    cluster = Cluster3("abc")
    box = a_box(cluster, "b")
    members = [cluster[name].client() for name in "abc"]
    for member in members:
        member.subscribe(tail(box), b"workers")
    bob = cluster["c"].client()
    bob.send(box, b"before")
    assert heard(*members) == [b"before"]
    cluster.move(cluster.slot(box), "c")
    jobs = [b"after %d" % number for number in range(30)]
    for job in jobs:
        bob.send(box, job)
    cluster.advance(1)
    shares = [heard(member) for member in members]
    assert sorted(chain(*shares)) == sorted(jobs)
    assert all(shares)
    cluster.close()


def test_a_subscription_goes_on_when_the_link_is_back(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.subscribe(tail(box))
    bob.send(box, b"one")
    cluster.network.cut("a", "b")
    bob.send(box, b"two")
    assert heard(alice) == [b"one"]
    assert cluster["b"].mailboxes.stats()["subscribers"] == 0
    cluster.network.connect("a", "b")
    cluster.run()
    assert heard(alice) == [b"two"]


def test_a_job_on_its_way_over_a_link_that_breaks_is_the_groups_again(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.subscribe(tail(box), b"workers")
    cluster.network.hold("a", "b")
    bob.send(box, b"job")
    assert heard(alice) == []
    cluster.network.cut("a", "b")
    carol = cluster["b"].client()
    carol.subscribe(tail(box), b"workers")
    assert offered(carol) == [(b"job", True)]


def break_the_link_after_a_job(cluster: Cluster3, box: str) -> None:
    """A member on another node has a job, and its node's word of that is lost with the link, and so is the member."""
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.subscribe(tail(box), b"workers")
    cluster["b"].mailboxes.handlers = {**cluster["b"].mailboxes.handlers, "credits": lambda *_: None}
    bob.send(box, b"job")
    assert heard(alice) == [b"job"]
    cluster.network.cut("a", "b")
    alice.close()


@pytest.mark.parametrize("then", ["stays", "moves"])
def test_a_job_that_was_said_over_a_link_that_broke_is_offered_again_and_marked(then: str) -> None:
    """It was handed to a second member as if nobody had had it."""
    cluster = Cluster3("abc")
    box = a_box(cluster)
    break_the_link_after_a_job(cluster, box)
    if then == "moves":
        cluster.move(cluster.slot(box), "c")
    cluster["c"].client().send(box, b"new")
    carol = cluster["c"].client()
    carol.subscribe(tail(box), b"workers")
    assert offered(carol) == [(b"job", True), (b"new", False)]
    cluster.close()


def test_such_a_job_where_nothing_may_come_twice_is_a_dead_letter(cluster: Cluster3) -> None:
    dead = cluster.address_at("b", "dead")
    box = a_box(cluster, max_deliver=1, dead_letter=dead)
    break_the_link_after_a_job(cluster, box)
    bob = cluster["b"].client()
    bob.subscribe(tail(box), b"workers")
    assert heard(bob) == []
    [letter] = bob.command(f"MSG.QUERY.{dead}", {"encoding": "text"})["messages"]
    assert letter["payload"] == "job"


def test_what_was_only_claimed_when_the_link_broke_has_surely_been_said_to_nobody(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.subscribe(tail(box), b"workers")
    partition, link = cluster["b"].partition(cluster.slot(box)), cluster["a"].link("b")
    assert partition is not None
    assert link is not None
    bob.publish(f"MSG.SEND.{box}", b"job")
    while not partition.pushing.staged:
        cluster.loop.turn()
    link.other.queued_bytes_max = -1  # crowded when the claim is durable: it waits
    cluster.run()
    assert [len(push.waiting) for pushes in partition.pushing.by_client.values() for push in pushes] == [1]
    cluster.network.cut("a", "b")
    carol = cluster["b"].client()
    carol.subscribe(tail(box), b"workers")
    assert offered(carol) == [(b"job", False)]


@pytest.mark.parametrize("member_at", ["a", "b"])
def test_what_a_member_may_have_had_when_its_mailbox_moved_is_marked(member_at: str) -> None:
    """Also that of a member at the node that had it. The next one knows no more than that it was claimed."""
    cluster = Cluster3("abc")
    box = a_box(cluster)
    alice, bob, carol = cluster[member_at].client(), cluster["b"].client(), cluster["c"].client()
    alice.subscribe(tail(box), b"workers")
    bob.send(box, b"taken")
    alice.taken = alice.said
    alice.taken_offset = lambda: alice.taken  # type: ignore[method-assign]
    bob.send(box, b"in doubt")
    assert heard(alice) == [b"taken", b"in doubt"]
    cluster.take_away(cluster.slot(box))
    alice.close()
    cluster.give(cluster.slot(box), "c")
    bob.send(box, b"new")
    carol.subscribe(tail(box), b"workers")
    assert offered(carol) == [(b"in doubt", True), (b"new", False)]
    cluster.close()


# --- What the other node is told of a socket --------------------------------------------------------------------------------


def with_one_untaken(cluster: Cluster3, box: str) -> tuple[InProcessClient, Subscription]:
    """A member on the other node that was said one message, which its socket has not taken though it would take more."""
    alice = cluster["a"].client()
    alice.taken_offset = lambda: alice.taken  # type: ignore[method-assign]
    sub = alice.subscribe(tail(box), b"workers")
    cluster["b"].client().send(box, b"one")
    assert heard(alice) == [b"one"]
    return alice, sub


def take(cluster: Cluster3, client: InProcessClient) -> None:
    """Its socket takes what was said to it."""
    client.taken = client.said
    client.unstall()
    cluster.run()


def joined(cluster: Cluster3, box: str) -> list[tuple[bytes, bool]]:
    """What there is for one more member."""
    carol = cluster["b"].client()
    carol.subscribe(tail(box), b"workers")
    return offered(carol)


def test_what_a_socket_took_just_before_it_closed_is_told(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, _ = with_one_untaken(cluster, box)
    alice.taken = alice.said  # and nobody has heard of it
    alice.close()
    assert joined(cluster, box) == []


def test_who_unsubscribes_gets_nothing_more_and_keeps_what_its_socket_still_takes(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, sub = with_one_untaken(cluster, box)
    alice.unsubscribe(sub)
    cluster["b"].client().send(box, b"two")
    assert joined(cluster, box) == [(b"two", False)]
    take(cluster, alice)
    assert offered(alice) == joined(cluster, box) == []


def test_what_is_on_its_way_when_a_member_unsubscribes_is_for_others(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, sub = with_one_untaken(cluster, box)
    cluster.network.hold("a", "b")
    cluster["b"].client().send(box, b"two")
    alice.unsubscribe(sub)
    cluster.network.release("a", "b")
    cluster.run()
    take(cluster, alice)  # what is left is then known to be nobody's
    assert heard(alice) == []
    assert joined(cluster, box) == [(b"two", False)]


def test_a_node_about_to_stop_says_no_more_and_learns_what_was_taken(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, _ = with_one_untaken(cluster, box)
    partition = cluster["b"].partition(cluster.slot(box))
    assert partition is not None
    partition.pushing.rest()
    cluster["b"].client().send(box, b"two")
    assert heard(alice) == []
    assert partition.pushing.is_waiting()
    take(cluster, alice)
    assert not partition.pushing.is_waiting()
    alice.close()
    cluster.move(cluster.slot(box), "a")
    assert joined(cluster, box) == [(b"two", False)]


def test_a_member_whose_socket_is_full_is_passed_over(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob, carol = cluster["a"].client(), cluster["b"].client(), cluster["b"].client()
    alice.subscribe(tail(box), b"workers")
    alice.stall()
    bob.send(box, b"first")
    assert heard(alice) == [b"first"]
    carol.subscribe(tail(box), b"workers")
    jobs = [b"job %d" % number for number in range(10)]
    for job in jobs:
        bob.send(box, job)
    assert (heard(alice), heard(carol)) == ([], jobs)


@pytest.mark.parametrize("queue", [b"", b"workers"])
def test_the_kernel_is_to_hold_little_for_a_member_on_another_node(cluster: Cluster3, queue: bytes) -> None:
    """What it holds dies with the member."""
    box, asked = a_box(cluster), []
    alice = cluster["a"].client()
    alice.keep_little = lambda: asked.append(queue)  # type: ignore[method-assign]
    alice.subscribe(tail(box), queue)
    assert asked == [queue] * bool(queue)


def test_a_crowded_link_does_not_stop_a_subscriber_for_good(cluster: Cluster3) -> None:
    box = a_box(cluster)
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.subscribe(tail(box))
    link = cluster["a"].link("b")
    assert link is not None
    link.other.queued_bytes_max = -1
    bob.send(box, b"x")
    assert heard(alice) == []
    link.other.queued_bytes_max = 1 << 20
    cluster.advance(1)
    assert heard(alice) == [b"x"]
