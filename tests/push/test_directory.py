"""The public directory of one broker: pages, readers that do not read, lists that fail, and readers that leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from broker_node.mailbox.listing import Listed, Page
from broker_node.push.directory import PAGE
from mq9.errors import error
from mq9.testing.broker import InProcessBroker, InProcessClient


@pytest.fixture
def broker() -> Iterator[InProcessBroker]:
    """A broker in this process that knows no mailbox."""
    broker = InProcessBroker()
    yield broker
    broker.close()


def make(broker: InProcessBroker, *names: str) -> list[str]:
    client = broker.client()
    for name in names:
        assert client.command("MAILBOX.CREATE", {"name": name, "public": True})["is_new"]
    return list(names)


def heard(client: InProcessClient) -> list[str]:
    """Mailboxes it was told of as made, taken."""
    events: list[dict[str, Any]] = [json.loads(payload) for _, _, payload in client.received]
    client.received.clear()
    assert {event["event"] for event in events} <= {"created"}
    return [event["mail_id"] for event in events]


def reading(broker: InProcessBroker) -> InProcessClient:
    client = broker.client()
    client.subscribe(b"PUBLIC.LIST")
    return client


def test_more_than_a_page_is_told_whole(broker: InProcessBroker) -> None:
    names = make(broker, *(f"pub.{number:04}" for number in range(2 * PAGE + 10)))
    reader = reading(broker)
    assert sorted(heard(reader)) == names
    broker.advance(5)
    assert heard(reader) == []


def test_a_reader_that_stops_reading_goes_on_where_it_was(broker: InProcessBroker) -> None:
    names = make(broker, *(f"pub.{number:04}" for number in range(2 * PAGE + 10)))
    reader = broker.client()
    receive = reader.receive

    def take_one(*args: Any) -> None:
        receive(*args)
        reader.stall()

    reader.receive = take_one  # type: ignore[method-assign, assignment]
    reader.subscribe(b"PUBLIC.LIST")
    broker.advance(5)
    first = heard(reader)
    assert len(first) == PAGE  # one page, which was on its way
    reader.receive = receive  # type: ignore[method-assign]
    reader.unstall()
    assert sorted(first + heard(reader)) == names


def test_a_full_socket_is_told_nothing_until_it_takes(broker: InProcessBroker) -> None:
    names = make(broker, "pub.a", "pub.b")
    reader = broker.client()
    reader.stall()
    reader.subscribe(b"PUBLIC.LIST")
    broker.advance(5)
    assert heard(reader) == []
    reader.unstall()
    assert sorted(heard(reader)) == names


def test_a_list_that_failed_is_asked_for_again(broker: InProcessBroker) -> None:
    names = make(broker, *(f"pub.{number:04}" for number in range(PAGE + 10)))
    listing = broker.broker.directory
    list_public, asked = listing.list_public, list[bytes]()

    def fails_every_other_time(page: Page, listed: Listed) -> None:
        asked.append(page.after)
        if len(asked) % 2:
            listed(error("UNAVAILABLE", reason="nobody knows"), [], b"")
        else:
            list_public(page, listed)

    listing.list_public = fails_every_other_time
    reader = reading(broker)
    assert heard(reader) == []
    broker.advance(5)
    assert sorted(heard(reader)) == names
    assert [bool(after) for after in asked] == [False, False, True, True]


def test_who_unsubscribes_hears_no_more(broker: InProcessBroker) -> None:
    make(broker, "pub.a")
    leaver, stayer = broker.client(), reading(broker)
    sub = leaver.subscribe(b"PUBLIC.LIST")
    leaver.unsubscribe(sub)
    leaver.received.clear()
    make(broker, "pub.b")
    broker.advance(5)
    assert heard(leaver) == []
    assert heard(stayer) == ["pub.a", "pub.b"]
    assert len(broker.broker.directory.readers) == 1


def test_who_unsubscribes_within_a_page_hears_no_more_of_it(broker: InProcessBroker) -> None:
    make(broker, "pub.a", "pub.b", "pub.c")
    leaver = broker.client()
    receive = leaver.receive

    def leave(sub: Any, *args: Any) -> None:
        receive(sub, *args)
        broker.broker.unsubscribe(leaver, sub)

    leaver.receive = leave  # type: ignore[method-assign, assignment]
    leaver.subscribe(b"PUBLIC.LIST")
    broker.advance(5)
    assert len(heard(leaver)) == 1


def test_a_list_of_many_pages_is_told_one_after_the_other(broker: InProcessBroker) -> None:
    """Pages that come at once are not read within each other."""
    pages = 2000

    def one_at_a_time(page: Page, listed: Listed) -> None:
        number = int(page.after or b"0")
        following = b"%d" % (number + 1) if number + 1 < pages else b""
        listed(None, [{"mail_address": f"pub.{number:04}", "desc": "", "ttl": 0}], following)

    broker.broker.directory.list_public = one_at_a_time
    assert heard(reading(broker)) == [f"pub.{number:04}" for number in range(pages)]
