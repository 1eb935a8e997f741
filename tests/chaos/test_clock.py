"""Somebody sets the machine's calendar by an hour or a year: nothing expires wrongly; leases, waits and ids do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from mq9.clock import SystemClock
from mq9.testing.broker import InProcessBroker
from mq9.testing.clock import ManualClock

HOUR_S = 3600
YEAR_S = 365 * 86_400
JUMPS = [HOUR_S, -HOUR_S, YEAR_S, -YEAR_S]
FETCH = {"group_name": "g", "deliver": "earliest", "config": {"max_wait_ms": 0}}


class Machine(ManualClock):
    """What a broker sees of a machine: its SystemClock, over a calendar that `jump_wall` sets."""

    def __init__(self) -> None:
        super().__init__()
        self.steady = SystemClock(lambda: ManualClock.wall_ms(self) / 1000, self.monotonic_s)

    def wall_ms(self) -> int:
        return self.steady.wall_ms()


class Node:
    """A broker on such a machine, whose server follows the calendar as the real one does."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.broker = InProcessBroker(clock=self.machine)
        self.client = self.broker.client()
        self.client.command("MAILBOX.CREATE", {"name": "box"})

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.broker.advance(1)
            self.machine.steady.resync()

    def fetch(self, owner: str = "") -> list[int]:
        client = self.broker.client() if owner else self.client
        return [message["msg_id"] for message in client.command("MSG.FETCH.box", FETCH)["messages"]]


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.broker.close()


@pytest.mark.parametrize("jump_s", JUMPS)
def test_the_clock_follows_a_jump_slowly_and_only_in_its_calendar(jump_s: int) -> None:
    machine = Machine()
    before_ms, before_s = machine.wall_ms(), machine.monotonic_s()
    machine.jump_wall(jump_s)
    assert machine.wall_ms() == before_ms
    for _ in range(60):
        machine.steady.resync()
    assert 60 * 50 - 1 <= abs(machine.wall_ms() - before_ms) <= 60 * 50
    assert machine.monotonic_s() == before_s


def test_the_clock_arrives_where_the_calendar_is() -> None:
    machine = Machine()
    machine.jump_wall(HOUR_S)
    for _ in range(20 * HOUR_S + 1):
        machine.steady.resync()
    assert abs(machine.wall_ms() - ManualClock.wall_ms(machine)) <= 1


@pytest.mark.parametrize("jump_s", JUMPS)
def test_what_has_an_hour_to_live_keeps_most_of_it(node: Node, jump_s: int) -> None:
    """Following the calendar takes or gives 50 ms a second, not more."""
    node.client.send("box", b"lives", ttl=HOUR_S)
    node.client.command("MAILBOX.CREATE", {"name": "brief", "ttl": HOUR_S})
    node.client.send("box", b"later", delay=HOUR_S)
    node.machine.jump_wall(jump_s)
    node.pass_time(HOUR_S * 9 // 10)
    assert len(node.client.command("MSG.QUERY.box", {})["messages"]) == 1
    assert not node.client.command("MAILBOX.INFO.brief")["error"]
    assert node.client.command("MAILBOX.INFO.box")["delayed"] == 1
    node.pass_time(HOUR_S // 5)
    [message] = node.client.command("MSG.QUERY.box", {"encoding": "text"})["messages"]
    assert message["payload"] == "later"
    assert node.client.command("MAILBOX.INFO.brief")["code"] == "MAILBOX_NOT_FOUND"


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_lease_lasts_as_long_as_it_was_given_for(node: Node, jump_s: int) -> None:
    node.client.send("box", b"one")
    assert node.fetch() == [1]
    node.machine.jump_wall(jump_s)
    node.pass_time(29)
    assert node.fetch("somebody else") == []
    node.pass_time(2)
    assert node.fetch("somebody else") == [1]


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_wait_lasts_as_long_as_it_was_asked_for(node: Node, jump_s: int) -> None:
    reply = node.client.publish("MSG.FETCH.box", {"config": {"max_wait_ms": 10_100}})
    node.broker.loop.run()
    node.machine.jump_wall(jump_s)
    node.pass_time(9)
    assert node.client.replies(reply) == []
    node.pass_time(1)
    assert len(node.client.replies(reply)) == 1


@pytest.mark.parametrize("jump_s", JUMPS)
def test_ids_rise_times_do_not_fall_and_repeats_are_known(node: Node, jump_s: int) -> None:
    first = node.client.send("box", b"one", msg_id="a")
    node.machine.jump_wall(jump_s)
    node.pass_time(60)
    assert node.client.send("box", b"one", msg_id="a") == {**first, "duplicate": True}
    assert node.client.send("box", b"two")["msg_id"] == 2
    times = [message["create_time_ms"] for message in node.client.command("MSG.QUERY.box", {})["messages"]]
    assert times == sorted(times)


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_restart_after_the_calendar_was_set_keeps_ids_order_and_delayed_messages(node: Node, jump_s: int) -> None:
    """At its start a broker has only the calendar to go by. What it says then holds: but no id is given out twice, no message
    is hidden, and delayed messages keep their order."""
    node.broker.close()
    machine = ManualClock()
    store = node.broker.broker.partition.durable.store
    broker = InProcessBroker(store=store, clock=machine)
    client = broker.client()
    ids = [client.send("box", b"before %d" % number)["msg_id"] for number in range(3)]
    for number in range(3):
        client.send("box", b"delayed %d" % number, delay=60 + number)
    machine.jump_wall(jump_s)
    broker.restart()
    client = broker.client()
    client.send("box", b"delayed 3", delay=70)
    machine.jump_wall(3 * YEAR_S)  # everything that was delayed is due at the next start
    broker.restart()
    client = broker.client()
    ids += [client.send("box", b"after")["msg_id"]]
    found = client.command("MSG.QUERY.box", {"encoding": "text"})["messages"]
    assert [message["msg_id"] for message in found] == sorted({message["msg_id"] for message in found})
    delayed = [message["payload"] for message in found if message["payload"].startswith("delayed")]
    assert sorted(delayed) == [f"delayed {number}" for number in range(4)]
    assert [each for each in delayed if each != "delayed 3"] == ["delayed 0", "delayed 1", "delayed 2"]
    assert ids == sorted(set(ids))
    assert all(message["create_time_ms"] <= later["create_time_ms"] for message, later in pairwise(found))
    broker.close()
