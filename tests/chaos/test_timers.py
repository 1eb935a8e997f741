"""Everything falls due at the same moment: the work of one turn of the loop stays bounded, and a SEND waits for few turns."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from broker_node.mailbox.timers import RUN_MAX
from mq9.limits import RECLAIM_PER_TICK, WAITERS_PER_MAILBOX_MAX
from mq9.storage.interface import Batch, Table
from mq9.storage.memory_store import MemoryStore
from mq9.testing.broker import InProcessBroker, InProcessClient
from tests.chaos.tally import report

DUE = 20_000
LONG_DUE = int(os.environ.get("MQ9_TEST_TIMERS", "1000000"))
PER_MAILBOX = 250  # just below what one timer promotes at once: the most timers, each with the most to do
TURNS_OF_A_SEND = 4
SLACK = 300  # one step more of whatever was begun, and the SEND itself
TURNS_MAX = 100_000


class CountingStore(MemoryStore):
    """Counts the messages that each commit shows or takes away."""

    def __init__(self) -> None:
        super().__init__()
        self.messages = 0

    def commit(self, batch: Batch) -> None:
        self.messages += len(batch.tables[Table.MESSAGE])
        super().commit(batch)


class Node:
    """A broker whose loop is turned by hand, and which counts the work of each turn."""

    def __init__(self, mailboxes: int) -> None:
        self.store = CountingStore()
        self.broker = InProcessBroker(store=self.store, max_mailboxes=1_000_000)
        self.client = self.broker.client()
        self.names = [f"box{number}" for number in range(mailboxes)]
        for name in (*self.names, "quiet"):
            self.client.command("MAILBOX.CREATE", {"name": name})
        self.most = 0  # work of one turn
        self.turns = 0
        self.slowest_send = 0  # turns

    def in_each_mailbox(self, call: Callable[[InProcessClient, str], object]) -> None:
        for name in self.names:
            call(self.client, name)
        self.broker.loop.run()
        self.client.received.clear()

    def fall_due(self, seconds: float, work: Callable[[], int], total: int) -> None:
        """Let `seconds` pass at once, and turn the loop until `total` is done, sending a message now and then."""
        self.broker.clock.advance(seconds)
        done, sent, began, loop = work(), b"", 0, self.broker.loop
        while done < total or sent:
            if not sent:
                sent, began = self.client.publish("MSG.SEND.quiet", b"hello"), self.turns
            if not loop.turn():
                self.broker.clock.advance(0.25)  # what is left waits for the next tick
            self.turns += 1
            now = work()
            self.most = max(self.most, now - done)
            done = now
            if self.client.replies(sent):
                self.slowest_send = max(self.slowest_send, self.turns - began)
                sent = b""
            assert self.turns < TURNS_MAX, f"{done} of {total} done"

    def check(self, what: str, count: int, most: int) -> None:
        figures = f"{self.turns:,} turns, at most {self.most:,} in one, a SEND took {self.slowest_send}"
        report(f"{count:,} {what} at once", figures)
        assert self.most <= most + SLACK
        assert self.slowest_send <= TURNS_OF_A_SEND
        self.broker.close()


def delayed(count: int) -> None:
    node = Node(count // PER_MAILBOX)

    def send(client: InProcessClient, name: str) -> None:
        for _ in range(PER_MAILBOX):
            client.publish(f"MSG.SEND.{name}", b"later", b"NATS/1.0\r\nmq9-delay: 3600\r\n\r\n")

    node.in_each_mailbox(send)
    counters = node.broker.broker.counters
    node.fall_due(3601, lambda: counters.delayed_promoted, count)
    node.check("delayed messages due", count, RUN_MAX)


def expiring(count: int) -> None:
    node = Node(max(1, count // 10_000))

    def send(client: InProcessClient, name: str) -> None:
        for _ in range(min(count, 10_000)):
            client.publish(f"MSG.SEND.{name}", b"brief", b"NATS/1.0\r\nmq9-ttl: 3600\r\n\r\n")

    node.in_each_mailbox(send)
    counters = node.broker.broker.counters
    node.fall_due(3601, lambda: counters.reclaimed, count)
    node.check("messages expired", count, 2 * RECLAIM_PER_TICK)


def leased(count: int) -> None:
    """Leases of ten messages each, given to as many connections."""
    node = Node(max(1, count // 10_000))
    owners = [node.broker.client() for _ in range(min(count, 10_000) // 10)]

    def lease(client: InProcessClient, name: str) -> None:
        for _ in range(min(count, 10_000)):
            client.publish(f"MSG.SEND.{name}", b"work")
        node.broker.loop.run()
        for owner in owners:
            body = {"group_name": "g", "deliver": "earliest", "config": {"num_msgs": 10, "max_wait_ms": 0}}
            owner.publish(f"MSG.FETCH.{name}", body)

    node.in_each_mailbox(lease)
    counters = node.broker.broker.counters
    assert counters.fetched_messages == count
    node.fall_due(31, lambda: 10 * counters.leases_expired, count)
    node.check("leased messages returned", count, RUN_MAX)


def waiting(count: int) -> None:
    node = Node(count // WAITERS_PER_MAILBOX_MAX)

    def wait(client: InProcessClient, name: str) -> None:
        for _ in range(WAITERS_PER_MAILBOX_MAX):
            client.publish(f"MSG.FETCH.{name}", {"config": {"max_wait_ms": 60_000}})

    node.in_each_mailbox(wait)
    fetching = node.broker.broker.partition.fetching
    assert fetching.waiting == count
    node.fall_due(61, lambda: count - fetching.waiting, count)
    node.check("waits over", count, RUN_MAX)


@pytest.mark.parametrize("kind", [delayed, expiring, leased, waiting])
def test_twenty_thousand_things_due_at_once_cost_bounded_turns(kind: Callable[[int], None]) -> None:
    kind(DUE)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [delayed, expiring, leased])
def test_a_million_things_due_at_once_cost_bounded_turns(kind: Callable[[int], None]) -> None:
    kind(LONG_DUE)
