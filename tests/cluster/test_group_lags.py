"""How far groups are behind, found by a walk over the rows, a bounded piece at a time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from broker_node.cluster.group_lags import ROUND_S, TOLD_MAX, GroupLags
from mq9.limits import SLOTS
from mq9.storage.interface import Batch, Table
from mq9.storage.layout import slot_of
from mq9.storage.memory_store import MemoryStore
from mq9.testing.broker import InProcessBroker, InProcessClient

PRIORITIES = ("critical", "urgent", "normal", "low")
NOW = {"max_wait_ms": 0}


class CountingStore(MemoryStore):
    """Counts the rows and keys that are read."""

    read = 0

    def scan(self, *arguments: Any) -> list[tuple[bytes, bytes]]:
        rows = super().scan(*arguments)
        self.read += len(rows)
        return rows

    def keys(self, *arguments: Any) -> list[bytes]:
        keys = super().keys(*arguments)
        self.read += len(keys)
        return keys


def complete_round(lags: GroupLags, broker: InProcessBroker) -> int:
    """Have a whole round done; how many steps it took."""
    broker.clock.advance(ROUND_S)
    steps = 1
    lags.step()
    while lags._walk is not None:
        lags.step()
        steps += 1
    return steps


def told(lags: GroupLags) -> dict[tuple[str, str], int]:
    return {(each.address, each.group): each.lag for each in lags.worst()}


class Traffic:
    """Messages of all priorities; groups that confirm some of what they are given, in no order; messages deleted."""

    def __init__(self, client: InProcessClient, seed: int) -> None:
        self.rng = random.Random(seed)
        self.client = client
        self.boxes: dict[str, set[int]] = {f"box{number}": set() for number in range(4)}  # what is in them
        self.confirmed: dict[tuple[str, str], set[int]] = {}
        for box in self.boxes:
            client.command("MAILBOX.CREATE", {"name": box})

    def some(self) -> None:
        rng, command = self.rng, self.client.command
        for _ in range(60):
            box = rng.choice(list(self.boxes))
            self.boxes[box].add(self.client.send(box, b"x", priority=rng.choice(PRIORITIES))["msg_id"])
        for _ in range(12):
            box, group = rng.choice(list(self.boxes)), rng.choice(["g", "h", "i"])
            body = {"group_name": group, "deliver": "earliest", "config": {**NOW, "num_msgs": rng.randint(1, 20)}}
            given = [message["msg_id"] for message in command(f"MSG.FETCH.{box}", body)["messages"]]
            done = rng.sample(given, rng.randint(0, len(given)))
            self.confirmed.setdefault((box, group), set()).update(done)
            if done:
                command(f"MSG.ACK.{box}", {"group_name": group, "msg_ids": done, "msg_id": done[-1], "mode": "single"})
        for _ in range(5):
            box = rng.choice(list(self.boxes))
            msg_id = rng.choice(sorted(self.boxes[box]) or [1])
            if not command(f"MSG.DELETE.{box}.{msg_id}")["error"]:
                self.boxes[box].discard(msg_id)

    def behind(self) -> dict[tuple[str, str], int]:
        return {(box, group): len(self.boxes[box] - ids) for (box, group), ids in self.confirmed.items()}


def test_what_is_counted_is_what_is_there_and_not_confirmed() -> None:
    for seed in range(20):
        store = MemoryStore()
        broker = InProcessBroker(store=store)
        traffic = Traffic(broker.client(), seed)
        lags = GroupLags(store, broker.clock, range(SLOTS))
        for _ in range(3):
            traffic.some()
            complete_round(lags, broker)
            assert told(lags) == traffic.behind(), seed
        broker.close()


def test_the_worst_are_told_of_and_only_of_slots_that_are_led_here() -> None:
    store = MemoryStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    for number in range(2 * TOLD_MAX):
        box = f"box{number}"
        client.command("MAILBOX.CREATE", {"name": box})
        for _ in range(number + 1):
            client.send(box, b"x")
        client.command(f"MSG.FETCH.{box}", {"group_name": "g", "deliver": "earliest", "config": {**NOW, "num_msgs": 1}})
    served = set(range(SLOTS))
    lags = GroupLags(store, broker.clock, served)
    complete_round(lags, broker)
    assert [each.lag for each in lags.worst()] == list(range(2 * TOLD_MAX, TOLD_MAX, -1))
    served.discard(slot_of(f"box{2 * TOLD_MAX - 1}".encode()))
    assert 2 * TOLD_MAX not in [each.lag for each in lags.worst()]
    broker.close()


def test_a_private_address_is_not_given_away_and_ages_are_those_of_the_oldest_unconfirmed() -> None:
    store = MemoryStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "everybody.knows", "public": True})
    client.command("MAILBOX.CREATE", {"name": "nobody.may.know"})
    for box in ("everybody.knows", "nobody.may.know"):
        client.send(box, b"first")
        broker.advance(10)
        client.send(box, b"second")
        client.command(f"MSG.FETCH.{box}", {"group_name": "g", "deliver": "earliest", "config": {**NOW, "num_msgs": 1}})
        client.command(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 1})
        broker.advance(10)
    lags = GroupLags(store, broker.clock, range(SLOTS))
    complete_round(lags, broker)
    assert told(lags) == {("everybody.knows", "g"): 1, ("nobody.m...", "g"): 1}
    ages_s = sorted(each.oldest_age_ms // 1000 for each in lags.worst())
    assert ages_s[1] - ages_s[0] == 20
    broker.close()


def test_a_step_reads_a_bounded_number_of_rows_whatever_there_is() -> None:
    store = CountingStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "long"})
    for _ in range(6000):
        client.publish("MSG.SEND.long", b"x")
    broker.loop.run()
    for number in range(5):
        body = {"group_name": f"g{number}", "deliver": "earliest", "config": {**NOW, "num_msgs": 1}}
        client.command("MSG.FETCH.long", body)
    lags = GroupLags(store, broker.clock, range(SLOTS))
    broker.clock.advance(ROUND_S)
    most = 0
    while not lags.worst():
        before = store.read
        lags.step()
        most = max(most, store.read - before)
    assert [each.lag for each in lags.worst()] == [6000] * 5
    assert most < 2000
    broker.close()


@pytest.mark.parametrize("table", [Table.GROUP, Table.STATE, Table.MAILBOX])
def test_what_is_damaged_is_left_out_and_reported(table: Table) -> None:
    store = MemoryStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    for box in ("one", "two"):
        client.command("MAILBOX.CREATE", {"name": box})
        client.send(box, b"x")
        client.command(f"MSG.FETCH.{box}", {"group_name": "g", "deliver": "earliest", "config": {**NOW, "num_msgs": 1}})
    first = store.keys(table, b"", b"\xff" * 9, 1)[0]
    batch = Batch()
    batch.put(table, first, b"damaged")
    store.commit(batch)
    lags = GroupLags(store, broker.clock, range(SLOTS))
    met: list[int] = []
    lags.on_damaged = lambda slot, failure: met.append(slot)
    complete_round(lags, broker)
    assert len(told(lags)) == 1
    assert met == [int.from_bytes(first[:2])]
    broker.close()
