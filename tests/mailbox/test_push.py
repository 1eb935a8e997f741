"""Push: stored first, then live; queue groups once; slow subscribers lose nothing; both dialects on one mailbox."""

from __future__ import annotations

import base64
import json

import pytest

from mq9.errors import CODES
from mq9.limits import LISTED_MESSAGES_MAX
from mq9.testing.broker import InProcessBroker, InProcessClient, header_block

PREFIX = b"$mq9.AI.MAILBOX.MSG."
SDK = "robustmq-mq9-python"


def pushed(client: InProcessClient) -> list[tuple[str, bytes]]:
    """Take what was pushed: (priority word, payload)."""
    taken, client.received = client.received, []
    return [(subject[len(PREFIX) :].rpartition(b".")[2].decode(), payload) for subject, _, payload in taken]


def test_stored_messages_come_by_priority_then_live_ones(broker: InProcessBroker) -> None:
    alice, bob = broker.client(), broker.client()
    for payload, priority in ((b"n1", "normal"), (b"c1", "critical"), (b"u1", "urgent"), (b"c2", "critical")):
        alice.send("box", payload, priority=priority)
    bob.command("MAILBOX.INFO.box")
    bob.dialect = 2
    bob.subscribe(b"MAILBOX.MSG.box.*")
    assert pushed(bob) == [("critical", b"c1"), ("critical", b"c2"), ("urgent", b"u1"), ("normal", b"n1")]
    alice.send("box", b"n2")
    alice.send("box", b"c3", priority="critical")
    assert pushed(bob) == [("normal", b"n2"), ("critical", b"c3")]


@pytest.mark.parametrize(("subject", "expected"), [(b"box", [b"h", b"n", b"l"]), (b"box.high", [b"h"]), (b"box.low", [b"l"])])
def test_a_subscription_to_one_priority_gets_just_that(broker: InProcessBroker, subject: bytes, expected: list[bytes]) -> None:
    client = broker.client()
    for word, payload in (("low", b"l"), ("normal", b"n"), ("high", b"h")):
        assert "msg_id" in client.command(f"MAILBOX.MSG.box.{word}", payload)
    client.subscribe(b"MAILBOX.MSG." + subject)
    assert [payload for _, payload in pushed(client)] == expected


def test_the_published_sdk_gets_an_envelope(broker: InProcessBroker) -> None:
    sdk = broker.client(SDK)
    sdk.command("MAILBOX.MSG.box.high", b"\xff\x00")
    sdk.command("MAILBOX.MSG.box.normal", b"")
    sdk.subscribe(b"MAILBOX.MSG.box.*")
    (word, first), (_, second) = pushed(sdk)
    envelope = json.loads(first)
    assert (word, envelope["priority"], envelope["msg_id"], envelope["mail_id"]) == ("high", "high", "1", "box")
    assert base64.b64decode(envelope["payload"]) == b"\xff\x00"
    assert second == b""


def test_a_queue_group_hands_each_message_to_one_member_once(broker: InProcessBroker) -> None:
    sender, members = broker.client(), [broker.client() for _ in range(3)]
    for number in range(10):
        sender.send("box", b"%d" % number)
    for member in members:
        member.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    for number in range(10, 40):
        sender.send("box", b"%d" % number)
    got = [[payload for _, payload in pushed(member)] for member in members]
    assert sorted((payload for each in got for payload in each), key=int) == [b"%d" % number for number in range(40)]
    assert all(len(each) >= 5 for each in got)


def test_a_queue_group_goes_on_where_it_was_after_a_restart(broker: InProcessBroker) -> None:
    first = broker.client()
    first.send("box", b"a")
    first.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    assert pushed(first) == [("normal", b"a")]
    first.close()
    broker.client().send("box", b"b")
    broker.restart()
    later = broker.client()
    later.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    assert pushed(later) == [("normal", b"b")]


def test_what_a_full_socket_did_not_take_goes_to_another_member(broker: InProcessBroker) -> None:
    sender, slow, other = broker.client(), broker.client(), broker.client()
    slow.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    # Said in one turn of the loop, but the socket takes nothing of it.
    sender.publish("MSG.SEND.box", b"a")
    slow.taken = slow.said
    original = slow.receive

    def stuck(*args: object) -> None:
        slow.stall()
        original(*args)  # type: ignore[arg-type]

    slow.receive = stuck  # type: ignore[method-assign, assignment]
    broker.loop.run()
    assert pushed(slow) == [("normal", b"a")]
    other.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    assert pushed(other) == []
    slow.close()
    assert pushed(other) == [("normal", b"a")]


@pytest.mark.parametrize("drains", [True, False])
def test_what_a_full_socket_did_not_take_survives_a_killed_broker(broker: InProcessBroker, drains: bool) -> None:
    sender, slow = broker.client(), broker.client()
    slow.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    sender.publish("MSG.SEND.box", b"a")
    original = slow.receive

    def stuck(*args: object) -> None:
        if slow.ready:
            slow.stall()
        original(*args)  # type: ignore[arg-type]

    slow.receive = stuck  # type: ignore[method-assign, assignment]
    broker.loop.run()
    if drains:
        slow.unstall()
        sender.send("box", b"b")  # it is stuck again, with this one; the commit carries the confirmation of the first
    broker.restart()
    later = broker.client()
    later.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    assert [payload for _, payload in pushed(later)] == ([b"b"] if drains else [b"a"])


def test_a_slow_plain_subscriber_is_not_written_to_and_loses_nothing(broker: InProcessBroker) -> None:
    sender, slow = broker.client(), broker.client()
    slow.subscribe(b"MAILBOX.MSG.box.*")
    slow.stall()
    for number in range(500):
        sender.send("box", b"%d" % number)
    assert pushed(slow) == []
    slow.unstall()
    assert [payload for _, payload in pushed(slow)] == [b"%d" % number for number in range(500)]


def test_unsubscribing_in_the_middle_of_a_replay_stops_it(broker: InProcessBroker) -> None:
    sender, reader = broker.client(), broker.client()
    for number in range(50):
        sender.send("box", b"%d" % number)
    original = reader.receive
    seen: list[object] = []

    def count(sub: object, *args: object) -> None:
        seen.append(args)
        original(sub, *args)  # type: ignore[arg-type]
        if len(seen) == 3:
            broker.broker.unsubscribe(reader, sub)  # type: ignore[arg-type]
            reader._subs.clear()

    reader.receive = count  # type: ignore[method-assign, assignment]
    reader.subscribe(b"MAILBOX.MSG.box.*")
    sender.send("box", b"later")
    assert len(seen) == 3


def test_an_ack_by_fetch_is_seen_by_the_queue_group_and_a_delete_by_everybody(broker: InProcessBroker) -> None:
    v2, v1 = broker.client(), broker.client()
    for payload in (b"a", b"b", b"c"):
        v2.send("box", payload)
    body = {"group_name": "workers", "deliver": "earliest", "config": {"num_msgs": 1, "max_wait_ms": 0}}
    assert [message["msg_id"] for message in v2.command("MSG.FETCH.box", body)["messages"]] == [1]
    v2.command("MSG.ACK.box", {"group_name": "workers", "msg_id": 1})
    assert v1.command("MAILBOX.DELETE.box.2") == {"deleted": True}
    assert v1.command("MAILBOX.DELETE.box.2") == {"deleted": False}
    v1.subscribe(b"MAILBOX.MSG.box.*", b"workers")
    assert pushed(v1) == [("normal", b"c")]
    assert v2.command("MSG.FETCH.box", body)["messages"] == []
    assert [message["msg_id"] for message in v1.command("MAILBOX.LIST.box")["messages"]] == ["1", "3"]


def test_a_mailbox_made_after_its_subscription_is_pushed_from(broker: InProcessBroker) -> None:
    client = broker.client()
    client.subscribe(b"MAILBOX.MSG.later.*")
    client.command("MAILBOX.CREATE", {"name": "later"})
    client.send("later", b"x")
    assert [payload for _, payload in pushed(client)] == [b"x"]


def test_older_replies_have_no_error_and_older_failures_a_number(broker: InProcessBroker) -> None:
    sdk = broker.client(SDK)
    created = sdk.command("MAILBOX.CREATE", {"ttl": 60})
    assert "error" not in created
    assert created["mail_id"]
    assert sdk.command("MAILBOX.CREATE", {"ttl": 60, "public": True, "name": "task.queue", "desc": "d"})["is_new"]
    assert not sdk.command("MAILBOX.CREATE", {"ttl": 90, "public": True, "name": "task.queue"})["is_new"]
    assert sdk.command("MAILBOX.LIST.nobody") == {"error": "mailbox nobody does not exist", "code": 404}
    assert sdk.command("MAILBOX.MSG.nobody.high", b"x") == {"error": "mailbox nobody.high does not exist", "code": 404}


def test_the_older_dialect_has_five_numbers() -> None:
    assert {row.status for row in CODES.values()} == {400, 403, 404, 409, 410}


def test_what_the_older_dialect_has_no_number_for_is_409_with_its_code() -> None:
    broker = InProcessBroker(max_mailboxes=1, max_mailbox_messages=1)
    sdk = broker.client(SDK)
    sdk.command("MAILBOX.CREATE", {"name": "box", "public": True})
    sdk.command("MAILBOX.MSG.box.high", b"x")
    full = sdk.command("MAILBOX.MSG.box.high", b"y")
    assert (full["code"], full["error_code"]) == (409, "MAILBOX_FULL")
    many = sdk.command("MAILBOX.CREATE", {"name": "another"})
    assert (many["code"], many["error_code"]) == (409, "LIMIT_EXCEEDED")
    broker.close()


def test_the_first_command_says_which_dialect_a_connection_speaks(broker: InProcessBroker) -> None:
    today = broker.client()
    assert today.command("MAILBOX.CREATE", {"name": "one"})["error"] == ""
    today.command("MAILBOX.LIST.one")
    assert today.command("MAILBOX.CREATE", {"name": "two"})["error"] == ""
    older = broker.client()
    older.command("MAILBOX.LIST.one")
    assert "error" not in older.command("MAILBOX.CREATE", {"name": "three"})
    subscriber = broker.client()
    subscriber.subscribe(b"MAILBOX.MSG.one.*")
    assert "error" not in subscriber.command("MAILBOX.CREATE", {"name": "four"})


def test_a_reader_of_the_directory_speaks_todays_dialect(broker: InProcessBroker) -> None:
    client = broker.client()
    client.subscribe(b"PUBLIC.LIST")
    assert client.command("MAILBOX.CREATE", {"name": "one"})["error"] == ""
    assert client.command("MAILBOX.CREATE", {"name": "one"})["code"] == "MAILBOX_EXISTS"


@pytest.mark.parametrize("public", [True, False])
def test_a_create_with_public_is_answered_in_the_older_dialect(broker: InProcessBroker, public: bool) -> None:
    client = broker.client()
    client.command("MAILBOX.INFO.box")
    body = {"name": "pub.lic", "public": public}
    keys = {"mail_address", "mail_id", "is_new", "ttl", "expires_at"}
    made, again = client.command("MAILBOX.CREATE", body), client.command("MAILBOX.CREATE", body)
    assert (set(made), made["is_new"], made["mail_id"]) == (keys, True, "pub.lic")
    assert (set(again), again["is_new"]) == (keys, False)
    failed = client.command("MAILBOX.CREATE", {**body, "name": "a..b"})
    assert (set(failed), failed["code"]) == ({"error", "code"}, 400)
    assert client.command("MAILBOX.CREATE", {"name": "todays"})["error"] == ""


def test_a_public_name_may_be_any_subject_tokens(broker: InProcessBroker) -> None:
    client, name = broker.client(), "Task.Q_1-ü"
    assert client.command("MAILBOX.CREATE", {"name": name})["code"] == "INVALID_ADDRESS"
    assert client.command("MAILBOX.CREATE", {"name": name, "public": True})["mail_id"] == name
    assert client.command(f"MAILBOX.MSG.{name}.high", b"older") == {"msg_id": 1}
    assert client.send(name, b"todays")["msg_id"] == 2
    client.subscribe(f"MAILBOX.MSG.{name}.*".encode())
    assert [(subject, payload) for subject, _, payload in client.received] == [
        (f"$mq9.AI.MAILBOX.MSG.{name}.critical".encode(), b"older"),
        (f"$mq9.AI.MAILBOX.MSG.{name}.normal".encode(), b"todays"),
    ]
    for wrong in ("a b", "a.*", "a.>", ".a", "a.", "a..b", "a\x01", ""):
        assert client.command("MAILBOX.CREATE", {"name": wrong, "public": True})["code"] == 400


@pytest.mark.parametrize("tail", [b"box", b"box.*", b"box.>"])
def test_all_of_a_mailbox_has_three_names(broker: InProcessBroker, tail: bytes) -> None:
    client = broker.client()
    client.subscribe(b"MAILBOX.MSG." + tail)
    for priority in ("low", "critical", "normal"):
        client.send("box", priority.encode(), priority=priority)
    assert [payload for _, payload in pushed(client)] == [b"low", b"critical", b"normal"]


def test_a_list_that_is_not_whole_says_so(broker: InProcessBroker) -> None:
    client = broker.client()
    for number in range(LISTED_MESSAGES_MAX):
        client.publish("MAILBOX.MSG.box." + ("normal", "high")[number % 2])
    whole = client.command("MAILBOX.LIST.box")
    assert (set(whole), len(whole["messages"])) == ({"mail_id", "messages"}, LISTED_MESSAGES_MAX)
    client.send("box", b"x", priority="critical")
    part = client.command("MAILBOX.LIST.box")
    assert part["more"] is True
    assert [message["msg_id"] for message in part["messages"]] == [str(msg_id + 1) for msg_id in range(LISTED_MESSAGES_MAX)]


def test_the_public_directory_tells_what_is_there_and_what_comes_and_goes(broker: InProcessBroker) -> None:
    client, reader = broker.client(), broker.client()
    client.command("MAILBOX.CREATE", {"name": "pub.one", "public": True, "desc": "first", "ttl": 30})
    reader.subscribe(b"PUBLIC.LIST")
    client.command("MAILBOX.CREATE", {"name": "pub.two", "public": True})
    broker.advance(31)
    events = [json.loads(payload) for _, _, payload in reader.received]
    assert [(event["event"], event["mail_id"]) for event in events] == [
        ("created", "pub.one"),
        ("created", "pub.two"),
        ("expired", "pub.one"),
    ]
    assert events[0] == {"event": "created", "mail_id": "pub.one", "desc": "first", "ttl": 30}


def test_a_priority_word_is_part_of_the_address_when_no_mailbox_has_the_name_before_it(broker: InProcessBroker) -> None:
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "alerts.high"})
    client.command("MAILBOX.MSG.alerts.high", b"x", header_block(priority="low"))
    client.subscribe(b"MAILBOX.MSG.alerts.high")
    assert pushed(client) == [("low", b"x")]


def test_messages_that_come_one_by_one_go_round_in_every_group(broker: InProcessBroker) -> None:
    """One turn for all groups gave the whole of a group's mail to one member where their numbers had a common factor."""
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "box"})
    groups = [[broker.client() for _ in range(size)] for size in (2, 4, 3, 2)]
    for number, members in enumerate(groups):
        for member in members:
            member.subscribe(b"MAILBOX.MSG.box.*", b"group%d" % number)
    for number in range(24):
        client.send("box", b"%d" % number)
    assert [[len(member.received) for member in members] for members in groups] == [[12, 12], [6] * 4, [8] * 3, [12, 12]]
