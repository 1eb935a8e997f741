"""Subscriptions to mailboxes (the older dialect) whose leader is another node: pushed to over the link, with flow control, and
moved along with the mailbox."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec
import pytest

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


def a_box(cluster: Cluster3, at: str = "b") -> str:
    box = cluster.address_at(at)
    cluster[at].client().command("MAILBOX.CREATE", {"name": box})
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
    assert heard(carol) == [b"job"]


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
