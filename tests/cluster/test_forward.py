"""Commands of clients connected to one node about mailboxes on another: everything is as on a single node."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from mq9.limits import FORWARD_WAIT_S, FORWARD_WAITING_MAX
from mq9.testing.broker import InProcessClient, header_block
from tests.cluster.nodes import SLOTS, Cluster3


@pytest.fixture
def cluster() -> Iterator[Cluster3]:
    made = Cluster3()
    yield made
    made.close()


NOW = {"max_wait_ms": 0}


def answer(client: InProcessClient, reply: bytes) -> dict[str, object]:
    """The one JSON answer to a command that was published; {} while there is none."""
    answers = client.replies(reply)
    assert len(answers) <= 1
    return msgspec.json.decode(answers[0][1]) if answers else {}


def test_a_mailbox_is_used_from_the_node_that_does_not_have_it(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    assert alice.command("MAILBOX.CREATE", {"name": box})["is_new"]
    assert alice.command("MAILBOX.CREATE", {"name": box})["code"] == "MAILBOX_EXISTS"
    assert alice.send(box, b"one")["msg_id"] == 1
    assert alice.send(box, b"two", priority="urgent")["msg_id"] == 2
    body = {"group_name": "g", "deliver": "earliest", "num_msgs": 10, "config": NOW}
    found = alice.command(f"MSG.FETCH.{box}", body)["messages"]
    assert [message["msg_id"] for message in found] == [2, 1]
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_ids": [1, 2]}) == {"error": ""}
    bob = cluster["b"].client()
    assert bob.command(f"MSG.FETCH.{box}", body)["messages"] == []
    assert len(bob.command(f"MSG.QUERY.{box}", {})["messages"]) == 2
    assert alice.command(f"MSG.DELETE.{box}.1")["deleted"]
    assert alice.command(f"MAILBOX.INFO.{box}")["messages"] == 1
    assert alice.command(f"MAILBOX.REMOVE.{box}") == {"error": ""}
    assert alice.command(f"MSG.FETCH.{box}", body)["code"] == "MAILBOX_NOT_FOUND"
    assert not cluster["a"].mailboxes.forwarder.in_flight


def test_mailboxes_without_a_name_are_spread_over_the_cluster(cluster: Cluster3) -> None:
    alice = cluster["a"].client()
    made = [alice.command("MAILBOX.CREATE", {})["mail_address"] for _ in range(40)]
    assert len({cluster.slot(address) for address in made}) > SLOTS // 2
    for address in made:
        assert alice.send(address, b"x")["msg_id"] == 1


def test_what_is_wrong_is_said_as_on_a_single_node(cluster: Cluster3) -> None:
    alice = cluster["a"].client()
    failed = alice.command("MAILBOX.CREATE", b"[1]")
    assert failed["code"] == "INVALID_REQUEST"
    assert failed["mail_address"] == ""
    box = cluster.address_at("b")
    assert alice.command("MAILBOX.CREATE", {"name": box, "ttl": -1})["mail_address"] == ""
    assert alice.send("nobody.home", b"x")["code"] == "MAILBOX_NOT_FOUND"
    assert alice.command(f"MSG.DELETE.{box}.no")["deleted"] is False


def test_a_streamed_fetch_arrives_whole_and_in_order(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    for number in range(5):
        alice.send(box, b"%d" % number)
    reply = alice.publish(f"MSG.FETCH.{box}", {"deliver": "earliest", "num_msgs": 10, "config": {"stream": True}})
    cluster.run()
    said = alice.replies(reply)
    assert [payload for _, payload in said] == [b"0", b"1", b"2", b"3", b"4", b""]
    assert b" 204\r\n" in said[-1][0]


def test_a_long_poll_waits_where_the_mailbox_is(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice, bob = cluster["a"].client(), cluster["b"].client()
    bob.command("MAILBOX.CREATE", {"name": box})
    reply = alice.publish(f"MSG.FETCH.{box}", {"group_name": "g", "config": {"max_wait_ms": 20_000}})
    cluster.advance(8)
    assert alice.replies(reply) == []
    bob.send(box, b"late")
    assert [message["payload"] for message in answer(alice, reply)["messages"]] == ["late"]  # type: ignore[attr-defined]


def test_a_request_of_an_epoch_that_the_node_has_not_heard_of_is_not_carried_out(cluster: Cluster3) -> None:
    """It may have been deposed since, and lead again: what it has in memory is of the epoch that it knows."""
    box = cluster.address_at("b")
    slot = cluster.slot(box)
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    done = cluster["b"].mailboxes.owner.carried_out
    cluster.leaders[slot] = ("b", cluster.leaders[slot][1] + 1)
    cluster["a"].hear([slot])
    reply = alice.publish(f"MSG.SEND.{box}", b"x")
    cluster.run()
    assert cluster["b"].mailboxes.owner.carried_out == done
    assert alice.replies(reply) == []
    cluster["b"].hear([slot])
    cluster.advance(FORWARD_WAIT_S / 2)
    assert answer(alice, reply)["msg_id"] == 1


def test_what_a_client_holds_is_free_when_it_closes(cluster: Cluster3) -> None:
    """Its wait at the other node ends, and what it leased is another's at once."""
    box = cluster.address_at("b")
    alice, bob = cluster["a"].client(), cluster["b"].client()
    bob.command("MAILBOX.CREATE", {"name": box})
    bob.send(box, b"job")
    body = {"group_name": "g", "deliver": "earliest", "config": NOW}
    assert len(alice.command(f"MSG.FETCH.{box}", body)["messages"]) == 1
    alice.publish(f"MSG.FETCH.{box}", {**body, "config": {"max_wait_ms": 20_000, "hold": True}})
    cluster.run()
    assert bob.command(f"MSG.FETCH.{box}", body)["messages"] == []
    alice.close()
    assert len(bob.command(f"MSG.FETCH.{box}", body)["messages"]) == 1
    part = cluster["b"].partition(cluster.slot(box))
    assert part is not None
    assert part.fetching.waiting == 0
    assert cluster["a"].mailboxes.forwarder.in_flight == 0
    assert cluster["b"].mailboxes.stats()["remote_clients"] == 0


def test_an_acknowledgement_of_what_an_earlier_leader_handed_out_is_not_called_done(cluster: Cluster3) -> None:
    """It would come again all the same: leases are their leader's memory."""
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    for number in range(4):
        alice.send(box, b"%d" % number)
    body = {"group_name": "g", "deliver": "earliest", "config": {**NOW, "num_msgs": 3}}
    assert len(alice.command(f"MSG.FETCH.{box}", body)["messages"]) == 3
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_ids": [1], "mode": "single"}) == {"error": ""}
    cluster.take_away(cluster.slot(box))
    cluster.give(cluster.slot(box), "b")
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 3})["code"] == "DELIVERY_LOST"
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 1}) == {"error": ""}
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 99}) == {"error": ""}
    again = alice.command(f"MSG.FETCH.{box}", {**body, "config": NOW})["messages"]
    assert [message["msg_id"] for message in again] == [2, 3, 4]
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 3}) == {"error": ""}
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 3}) == {"error": ""}
    cluster.take_away(cluster.slot(box))
    cluster.give(cluster.slot(box), "b")
    assert alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 4})["code"] == "DELIVERY_LOST"


def test_clients_of_two_nodes_with_one_number_are_two_clients(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice, bob = cluster["a"].client(), cluster["b"].client()
    assert alice.id == bob.id
    bob.command("MAILBOX.CREATE", {"name": box})
    bob.send(box, b"job")
    body = {"group_name": "g", "deliver": "earliest", "config": NOW}
    assert len(alice.command(f"MSG.FETCH.{box}", body)["messages"]) == 1
    bob.close()
    other = cluster["b"].client()
    assert other.command(f"MSG.FETCH.{box}", body)["messages"] == []


def test_a_message_that_wants_no_answer_is_stored(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    cluster["a"].broker.command(alice, b"$mq9.AI.MSG.SEND." + box.encode(), b"", b"", b"quiet")
    cluster.run()
    assert alice.command(f"MAILBOX.INFO.{box}")["messages"] == 1
    assert cluster["a"].mailboxes.forwarder.in_flight == 0


def test_who_speaks_the_older_dialect_is_answered_in_it(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box, "public": False})
    assert alice.command(f"MAILBOX.MSG.{box}.high", b"x") == {"msg_id": 1}
    assert alice.dialect == 2
    listed = alice.command(f"MAILBOX.LIST.{box}")["messages"]
    assert [message["msg_id"] for message in listed] == ["1"]
    assert alice.command(f"MAILBOX.DELETE.{box}.1") == {"deleted": True}


def test_what_a_connection_spoke_first_it_speaks_to_every_node(cluster: Cluster3) -> None:
    """Each node learns of its dialect with a request, not from what it has been asked before."""
    boxes = [cluster.address_at("a"), cluster.address_at("b")]
    older, newer = cluster["a"].client(), cluster["a"].client()
    assert newer.command("MAILBOX.CREATE", {"name": boxes[0]})["error"] == ""
    older.command(f"MAILBOX.MSG.{boxes[0]}.high", b"x")
    assert (older.dialect, newer.dialect) == (1, 2)
    assert "error" not in older.command("MAILBOX.CREATE", {"name": boxes[1]})
    newer.send(boxes[1], b"x", priority="critical")
    listed = [client.command(f"MAILBOX.LIST.{boxes[1]}")["messages"] for client in (older, newer)]
    assert [[message["priority"] for message in messages] for messages in listed] == [["high"], ["critical"]]


# --- Leaders come and go ----------------------------------------------------------------------------------------------------


def test_a_request_waits_for_a_leader_and_keeps_its_place(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    slot = cluster.slot(box)
    cluster.take_away(slot)
    cluster.tell(slot)
    replies = [alice.publish(f"MSG.SEND.{box}", b"%d" % number) for number in range(20)]
    cluster.advance(1)
    assert not any(alice.replies(reply) for reply in replies)
    cluster.give(slot, "a")
    assert [answer(alice, reply)["msg_id"] for reply in replies] == list(range(1, 21))


def test_a_node_that_has_not_heard_yet_is_told_that_nothing_was_done(cluster: Cluster3) -> None:
    """The old leader says so; the requests wait for a newer view, in order, and are done once."""
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    slot = cluster.slot(box)
    cluster.take_away(slot)
    replies = [alice.publish(f"MSG.SEND.{box}", b"%d" % number) for number in range(5)]
    cluster.advance(2)
    assert len(cluster["a"].mailboxes.forwarder.waiting) + cluster["a"].mailboxes.forwarder.in_flight == 5
    cluster["b"].leaders[slot] = cluster.leaders[slot] = ("b", 9)
    cluster["b"].open(slot)
    cluster.advance(1)
    assert [answer(alice, reply)["msg_id"] for reply in replies] == [1, 2, 3, 4, 5]


def test_who_waits_too_long_is_refused(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    slot = cluster.slot(box)
    cluster.take_away(slot)
    cluster.tell(slot)
    reply = alice.publish(f"MSG.SEND.{box}", b"x")
    created = alice.publish("MAILBOX.CREATE", {"name": box})
    cluster.advance(FORWARD_WAIT_S - 1)
    assert answer(alice, reply) == {}
    cluster.advance(2)
    assert answer(alice, reply)["code"] == "UNAVAILABLE"
    failed = answer(alice, created)
    assert (failed["code"], failed["mail_address"]) == ("UNAVAILABLE", "")
    assert not cluster["a"].mailboxes.forwarder.waiting.bytes


def test_so_many_wait_and_no_more(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    slot = cluster.slot(box)
    cluster.take_away(slot)
    cluster.tell(slot)
    replies = [alice.publish(f"MSG.SEND.{box}", b"x") for _ in range(FORWARD_WAITING_MAX + 3)]
    cluster.run()
    refused = [reply for reply in replies if answer(alice, reply).get("code") == "UNAVAILABLE"]
    assert refused == replies[FORWARD_WAITING_MAX:]


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_long_poll_follows_its_mailbox(cluster: Cluster3, node: str) -> None:
    """Also that of a client of the node that had it."""
    box = cluster.address_at("b")
    client = cluster[node].client()
    client.command("MAILBOX.CREATE", {"name": box})
    reply = client.publish(f"MSG.FETCH.{box}", {"group_name": "g", "config": {"max_wait_ms": 30_000}})
    cluster.run()
    cluster.move(cluster.slot(box), "a")
    cluster.advance(1)
    cluster["b"].client().send(box, b"found you")
    assert [message["payload"] for message in answer(client, reply)["messages"]] == ["found you"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("node", ["a", "b"])
@pytest.mark.parametrize("command", ["MSG.FETCH", "MSG.QUERY"])
def test_what_waits_for_a_commit_is_not_read_from_a_partition_that_closed_meanwhile(
    cluster: Cluster3, node: str, command: str
) -> None:
    """It would be leased by a node that does not lead the mailbox, or read from one that may be behind."""
    box = cluster.address_at("b")
    client = cluster[node].client()
    client.command("MAILBOX.CREATE", {"name": box})
    client.publish(f"MSG.SEND.{box}", b"sent")
    reply = client.publish(f"{command}.{box}", {"group_name": "g", "deliver": "earliest"} if command == "MSG.FETCH" else {})
    while node == "a" and cluster["b"].mailboxes.owner.carried_out < 3:
        cluster.loop.turn()
    cluster.take_away(cluster.slot(box))
    cluster.run()
    assert answer(client, reply) == {}
    cluster.give(cluster.slot(box), "a")
    assert len(answer(client, reply)["messages"]) == 1  # type: ignore[arg-type]


def test_a_broken_link_repeats_only_what_may_be_repeated(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    cluster.network.hold("a", "b")
    plain = alice.publish(f"MSG.SEND.{box}", b"plain")
    once = alice.publish(f"MSG.SEND.{box}", b"once", header_block(msg_id="7"))
    query = alice.publish(f"MSG.QUERY.{box}", {})
    cluster.run()
    cluster.network.cut("a", "b")
    cluster.run()
    failed = answer(alice, plain)
    assert failed["code"] == "UNAVAILABLE"
    assert "not known" in str(failed["error"])
    assert (answer(alice, once), answer(alice, query)) == ({}, {})
    cluster.network.connect("a", "b")
    cluster.run()
    assert answer(alice, once)["msg_id"] == 1
    assert len(answer(alice, query)["messages"]) == 1  # type: ignore[arg-type]


def test_a_node_without_a_lease_serves_nothing(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice, bob = cluster["a"].client(), cluster["b"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    cluster["b"].lease = False
    replies = [(client, client.publish(f"MSG.SEND.{box}", b"x")) for client in (alice, bob)]
    cluster.advance(1)
    assert [answer(*each) for each in replies] == [{}, {}]
    cluster["b"].lease = True
    cluster.advance(1)
    assert sorted(str(answer(*each)["msg_id"]) for each in replies) == ["1", "2"]


def test_a_broker_that_stops_answers_everybody(cluster: Cluster3) -> None:
    box = cluster.address_at("b")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box})
    reply = alice.publish(f"MSG.FETCH.{box}", {"group_name": "g", "config": {"max_wait_ms": 30_000}})
    cluster.run()
    cluster["a"].close()
    assert answer(alice, reply)["code"] == "UNAVAILABLE"


# --- Lists and dead letters -------------------------------------------------------------------------------------------------


def test_public_mailboxes_of_all_nodes_are_listed_page_by_page(cluster: Cluster3) -> None:
    alice = cluster["a"].client()
    names = {f"list.{number}" for number in range(30)}
    for name in names:
        alice.command("MAILBOX.CREATE", {"name": name, "public": True})
    alice.command("MAILBOX.CREATE", {"name": "private"})
    seen: list[str] = []
    after = ""
    while True:
        reply = alice.publish("MAILBOX.LS", {"limit": 4, "after": after})
        cluster.run()
        page = answer(alice, reply)
        seen += [each["mail_address"] for each in page["mailboxes"]]  # type: ignore[attr-defined]
        after = str(page.get("next", ""))
        if not after:
            break
    assert len(seen) == len(names)
    assert set(seen) == names


def test_a_list_that_would_lack_a_slot_is_refused(cluster: Cluster3) -> None:
    alice = cluster["a"].client()
    slot = next(slot for slot, (name, _) in cluster.leaders.items() if name == "b")
    cluster["b"].shut(slot)
    assert alice.command("MAILBOX.LS", {})["code"] == "UNAVAILABLE"
    cluster["b"].open(slot)
    assert alice.command("MAILBOX.LS", {})["mailboxes"] == []


def test_the_public_directory_tells_of_mailboxes_on_other_nodes(cluster: Cluster3) -> None:
    alice, bob = cluster["a"].client(), cluster["b"].client()
    before, after = cluster.address_at("b", "before"), cluster.address_at("b", "after")
    bob.command("MAILBOX.CREATE", {"name": before, "public": True, "desc": "here first"})
    alice.subscribe(b"PUBLIC.LIST")
    cluster.run()
    bob.command("MAILBOX.CREATE", {"name": after, "public": True})
    said = [msgspec.json.decode(payload) for _, _, payload in alice.received]
    assert [(each["event"], each["mail_id"]) for each in said] == [("created", before), ("created", after)]
    assert said[0]["desc"] == "here first"


def test_the_public_directory_tells_of_mailboxes_that_end_on_other_nodes(cluster: Cluster3) -> None:
    alice, bob = cluster["a"].client(), cluster["b"].client()
    brief, removed = cluster.address_at("b", "brief"), cluster.address_at("b", "removed")
    bob.command("MAILBOX.CREATE", {"name": brief, "public": True, "desc": "a minute", "ttl": 60})
    bob.command("MAILBOX.CREATE", {"name": removed, "public": True})
    alice.subscribe(b"PUBLIC.LIST")
    cluster.run()
    alice.received.clear()
    bob.command(f"MAILBOX.REMOVE.{removed}")
    cluster.advance(120)
    said = [msgspec.json.decode(payload) for _, _, payload in alice.received]
    assert [(each["event"], each["mail_id"]) for each in said] == [("expired", removed), ("expired", brief)]
    assert said[1]["desc"] == "a minute"


def test_a_dead_letter_goes_to_the_node_of_its_mailbox_once(cluster: Cluster3) -> None:
    box, dead = cluster.address_at("a"), cluster.address_at("b", "dead")
    alice = cluster["a"].client()
    alice.command("MAILBOX.CREATE", {"name": box, "max_deliver": 1, "dead_letter": dead})
    alice.send(box, b"poison", priority="urgent")
    body = {"group_name": "g", "deliver": "earliest", "config": NOW}
    assert len(alice.command(f"MSG.FETCH.{box}", body)["messages"]) == 1
    cluster.network.hold("a", "b")
    alice.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 1, "nack": True})
    assert alice.command(f"MSG.FETCH.{box}", body)["messages"] == []
    assert alice.command(f"MAILBOX.INFO.{box}")["messages"] == 1, "it stays until the copy is safe"
    cluster.network.release("a", "b")
    cluster.run()
    assert alice.command(f"MAILBOX.INFO.{box}")["messages"] == 0
    [letter] = alice.command(f"MSG.QUERY.{dead}", {"encoding": "text"})["messages"]
    assert (letter["payload"], letter["priority"]) == ("poison", "urgent")
    assert cluster["a"].broker.counters.dead_letters == 1
