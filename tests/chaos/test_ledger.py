"""The control of every chaos test: the judge sees each kind of broken promise, and nothing where none was broken."""

from __future__ import annotations

import pytest

from tests.chaos.ledger import Ack, Found, Keyed, Ledger, Pin, Register, Remove, Send, body_of, judge


@pytest.fixture
def ledger() -> Ledger:
    """Three messages in `box`, of which the third was not answered; one confirmed, one key, one deletion, one agent."""
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.asked(b"send%d" % number, Send("box", f"m{number}"))
    ledger.asked(b"ack", Ack("box", "group", (1,)))
    ledger.asked(b"key", Keyed("notes", "key", 7))
    ledger.asked(b"gone", Send("notes", "plain"))
    ledger.asked(b"remove", Remove("notes", "plain"))
    ledger.asked(b"agent", Register("agent", away=False))
    ledger.asked(b"pin", Pin("late", "group"))
    for reply, body in {
        b"send1": b'{"error":"","msg_id":1}',
        b"send2": b'{"error":"","msg_id":2}',
        b"ack": b'{"error":""}',
        b"key": b'{"error":"","msg_id":1}',
        b"gone": b'{"error":"","msg_id":2}',
        b"remove": b'{"error":"","deleted":true}',
        b"agent": b'{"error":""}',
        b"pin": b'{"error":"","messages":[{"msg_id":5}]}',
    }.items():
        ledger.answered(reply, body)
    return ledger


def whole() -> Found:
    """What a server that kept every promise holds."""
    return Found(
        messages={"box": [(1, text("m1")), (2, text("m2"))], "notes": [(1, text("key#7"))]},
        offered={"box group": [2], "late group": [5, 6]},
        agents=["agent"],
        repeated={"box m1": 1},
    )


def text(name: str) -> str:
    return body_of(name).decode()


def test_kept_promises_are_seen_as_kept(ledger: Ledger) -> None:
    tally = judge(ledger.claims(), whole())
    assert not tally.broken, str(tally)
    assert (tally.attempted, tally.acknowledged, tally.found, tally.unknown) == (4, 3, 3, 1)


def test_an_unanswered_message_may_be_there(ledger: Ledger) -> None:
    found = whole()
    found.messages["box"].append((3, text("m3")))
    found.offered["box group"].append(3)
    assert not judge(ledger.claims(), found).broken


@pytest.mark.parametrize(
    ("column", "place", "value"),
    [
        ("lost", "box", [(1, text("m1"))]),
        ("lost", "notes", []),
        ("lost", "notes", [(1, text("key#6"))]),
        ("duplicated", "box", [(1, text("m1")), (2, text("m2")), (9, text("m2"))]),
        ("duplicated", "box", [(1, text("m1")), (4, text("m2"))]),
        ("duplicated", "notes", [(1, text("key#7")), (2, text("key#7"))]),
        ("unexpected", "box", [(1, text("m1")), (2, text("m2")[:-1] + "!")]),
        ("unexpected", "box", [(1, text("m1")), (2, text("m2")), (8, text("m8"))]),
        ("unexpected", "notes", [(1, text("key#7")), (2, text("plain"))]),
    ],
)
def test_a_breach_in_a_mailbox_is_seen(ledger: Ledger, column: str, place: str, value: list[tuple[int, str]]) -> None:
    found = whole()
    found.messages[place] = value
    assert getattr(judge(ledger.claims(), found), column) >= 1


@pytest.mark.parametrize(
    ("column", "place", "value"),
    [("again", "box group", [1, 2]), ("missed", "box group", []), ("again", "late group", [4, 5])],
)
def test_a_breach_in_a_group_is_seen(ledger: Ledger, column: str, place: str, value: list[int]) -> None:
    found = whole()
    found.offered[place] = value
    assert getattr(judge(ledger.claims(), found), column) == 1


def test_a_lost_agent_and_one_nobody_registered_are_seen(ledger: Ledger) -> None:
    found = whole()
    found.agents = ["stranger"]
    tally = judge(ledger.claims(), found)
    assert (tally.lost, tally.unexpected) == (1, 1)


def test_a_repeat_with_another_id_is_seen(ledger: Ledger) -> None:
    found = whole()
    found.repeated = {"box m1": 3}
    assert judge(ledger.claims(), found).duplicated == 1


def test_only_what_was_answered_by_then_is_promised(ledger: Ledger) -> None:
    """A power cut is judged by the answers given before it."""
    claims = ledger.claims({b"send1": {"msg_id": 1}})
    found = Found(messages={"box": [(1, text("m1"))]}, offered={"box group": [1]})
    tally = judge(claims, found)
    assert not tally.broken
    assert (tally.acknowledged, tally.unknown) == (1, 2)
