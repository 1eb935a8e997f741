"""The public directory of a cluster: its readers hear of every public mailbox, also of what was said while a link was down or
when a leader died, and of nothing twice."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from broker_node.push.directory import PAGE
from mq9.testing.broker import InProcessClient
from tests.cluster.nodes import Cluster3, Node


@pytest.fixture
def cluster() -> Iterator[Cluster3]:
    made = Cluster3()
    yield made
    made.close()


def heard(client: InProcessClient) -> list[tuple[str, str]]:
    """(event, mailbox) said to it so far, taken."""
    events = [msgspec.json.decode(payload) for subject, _, payload in client.received if subject == b"$mq9.AI.PUBLIC.LIST"]
    client.received.clear()
    return [(event["event"], event["mail_id"]) for event in events]


def reading(node: Node) -> InProcessClient:
    client = node.client()
    client.subscribe(b"PUBLIC.LIST")
    return client


def make(node: Node, box: str, **fields: object) -> str:
    assert node.client().command("MAILBOX.CREATE", {"name": box, "public": True, **fields})["is_new"]
    return box


def cut(cluster: Cluster3) -> None:
    cluster.network.cut("a", "b")
    cluster.network.cut("b", "a")


def join(cluster: Cluster3) -> None:
    cluster.network.connect_all()
    cluster.advance(1)


def test_what_was_made_while_a_link_was_cut_is_told_when_it_is_back(cluster: Cluster3) -> None:
    reader = reading(cluster["a"])
    before, during, after = (cluster.address_at("b", prefix) for prefix in ("before", "during", "after"))
    make(cluster["b"], before)
    assert heard(reader) == [("created", before)]
    cut(cluster)
    make(cluster["b"], during)
    cluster.advance(1)
    assert heard(reader) == []
    join(cluster)
    assert heard(reader) == [("created", during)]
    make(cluster["b"], after)
    cluster.advance(5)
    assert heard(reader) == [("created", after)]


def test_what_ended_meanwhile_is_told_and_what_was_made_anew_is_both(cluster: Cluster3) -> None:
    kept, ended, anew = (make(cluster["b"], cluster.address_at("b", prefix), desc=prefix) for prefix in ("kept", "ended", "anew"))
    reader = reading(cluster["a"])
    assert sorted(heard(reader)) == [("created", anew), ("created", ended), ("created", kept)]
    cut(cluster)
    bob = cluster["b"].client()
    for box in (ended, anew):
        bob.command(f"MAILBOX.REMOVE.{box}")
    make(cluster["b"], anew, desc="another")
    join(cluster)
    said = [msgspec.json.decode(payload) for _, _, payload in reader.received]
    assert said == [
        {"event": "expired", "mail_id": anew, "desc": "anew", "ttl": 0},
        {"event": "created", "mail_id": anew, "desc": "another", "ttl": 0},
        {"event": "expired", "mail_id": ended, "desc": "ended", "ttl": 0},
    ]


def test_a_link_that_only_the_other_side_lost_is_noticed(cluster: Cluster3) -> None:
    """Events travel on the stream that their broker dialed; the reader's own may have held all the time."""
    reader = reading(cluster["a"])
    cluster.network.cut("b", "a")
    box = make(cluster["b"], cluster.address_at("b"))
    assert heard(reader) == []
    join(cluster)
    assert heard(reader) == [("created", box)]


def test_what_a_dead_leader_did_not_say_is_told_when_another_leads(cluster: Cluster3) -> None:
    reader = reading(cluster["a"])
    cluster.network.hold("b", "a")
    box = make(cluster["b"], cluster.address_at("b"))
    assert heard(reader) == []
    cluster.network.cut("b", "a")
    cluster.move(cluster.slot(box), "a")
    cluster.advance(1)
    assert heard(reader) == [("created", box)]
    cluster.network.connect_all()
    cluster.advance(1)
    assert heard(reader) == []


def test_a_list_that_lacks_a_slot_ends_nothing(cluster: Cluster3) -> None:
    reader = reading(cluster["a"])
    box = make(cluster["b"], cluster.address_at("b"))
    heard(reader)
    slot = cluster.slot(box)
    cut(cluster)
    cluster.take_away(slot)
    cluster.tell(slot)
    join(cluster)
    assert heard(reader) == []
    cluster.give(slot, "b")
    cluster.advance(1)
    assert heard(reader) == []


@pytest.mark.parametrize("again", [False, True])
def test_an_event_that_overtakes_a_page_is_believed(cluster: Cluster3, again: bool) -> None:
    """The page was written before the mailbox ended, and came after its end was told."""
    box = make(cluster["b"], cluster.address_at("b"))
    cluster.network.hold("a", "b")
    reader = reading(cluster["a"])
    cluster.network.release("a", "b")
    cluster.network.step()  # the question
    cluster.network.hold("a", "b")
    cluster.network.step()  # the answer is on its way, and stays there
    cluster["b"].client().command(f"MAILBOX.REMOVE.{box}")
    if again:
        make(cluster["b"], box)
    cluster.network.release("a", "b")
    cluster.advance(5)
    assert heard(reader) == ([("created", box)] if again else [])
    assert cluster["a"].broker.directory.remembered == again


def test_a_stalled_reader_catches_up_when_it_reads_on(cluster: Cluster3) -> None:
    reader = reading(cluster["a"])
    ended = make(cluster["b"], cluster.address_at("b", "ended"))
    heard(reader)
    cut(cluster)
    made = make(cluster["b"], cluster.address_at("b", "made"))
    cluster["b"].client().command(f"MAILBOX.REMOVE.{ended}")
    reader.stall()
    join(cluster)
    assert heard(reader) == []
    reader.unstall()
    cluster.advance(1)
    assert heard(reader) == [("created", made), ("expired", ended)]


def test_what_is_remembered_is_bounded_and_what_is_not_is_told_again(cluster: Cluster3) -> None:
    cluster["a"].broker.directory.remembered_max = 3
    boxes = [make(cluster["b"], cluster.address_at("b", prefix)) for prefix in ("one", "two")]
    first, second = reading(cluster["a"]), reading(cluster["a"])
    for reader in (first, second):
        assert sorted(heard(reader)) == [("created", box) for box in boxes]
    assert cluster["a"].broker.directory.remembered == 2
    cut(cluster)
    later = make(cluster["b"], cluster.address_at("b", "zoo"))
    join(cluster)
    assert heard(first) == [("created", later)]
    assert sorted(heard(second)) == [("created", box) for box in (*boxes, later)]
    first.close()
    second.close()
    assert cluster["a"].broker.directory.remembered == 0


def test_what_is_made_again_before_its_end_was_told_is_not_said_to_have_ended(cluster: Cluster3) -> None:
    reader = reading(cluster["a"])
    back, gone = (make(cluster["b"], cluster.address_at("b", prefix)) for prefix in ("back", "gone"))
    heard(reader)
    cut(cluster)
    for box in (back, gone):
        cluster["b"].client().command(f"MAILBOX.REMOVE.{box}")
    new = make(cluster["b"], cluster.address_at("b", "new"))
    receive = reader.receive

    def take_one(*args: object) -> None:
        receive(*args)  # type: ignore[arg-type]
        reader.stall()

    reader.receive = take_one  # type: ignore[method-assign, assignment]
    join(cluster)
    assert heard(reader) == [("created", new)]
    make(cluster["b"], back)
    reader.receive = receive  # type: ignore[method-assign]
    reader.unstall()
    cluster.advance(1)
    assert heard(reader) == [("expired", gone)]


def test_more_than_a_page_that_ended_meanwhile_is_told_whole(cluster: Cluster3) -> None:
    bob = cluster["b"].client()
    boxes = [box for box in (f"many{number:04}" for number in range(1400)) if cluster.leaders[cluster.slot(box)][0] == "b"]
    assert len(boxes) > 2 * PAGE
    for box in boxes:
        make(cluster["b"], box)
    reader = reading(cluster["a"])
    assert sorted(heard(reader)) == [("created", box) for box in boxes]
    cut(cluster)
    for box in boxes:
        bob.command(f"MAILBOX.REMOVE.{box}")
    join(cluster)
    assert sorted(heard(reader)) == [("expired", box) for box in boxes]
    assert cluster["a"].broker.directory.remembered == 0
