"""What must not go wrong when something else does: damaged rows and pages, and clients that go in the middle of an answer."""

from __future__ import annotations

import msgspec

from mq9.errors import error
from mq9.storage.interface import Batch, Row, Table
from mq9.storage.memory_store import MemoryStore
from mq9.storage.records import seal
from mq9.testing.broker import InProcessBroker, InProcessClient


class BrokenStore(MemoryStore):
    """Tables that cannot be read any more, as after a damaged page; and keys that read as others, in their old place."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[Table] = set()
        self.swap_keys: dict[bytes, bytes] = {}

    def scan(self, table: Table, start: bytes, stop: bytes, limit: int, bytes_max: int = 1 << 62) -> list[Row]:
        if table in self.broken:
            raise error("DATA_DAMAGED", reason=f"table {table.name} cannot be read")
        return [(self.swap_keys.get(key, key), value) for key, value in super().scan(table, start, stop, limit, bytes_max)]


FETCH = {"group_name": "g", "deliver": "earliest"}
NOW = {"max_wait_ms": 0}


def test_a_first_fetch_that_meets_a_damaged_page_is_answered() -> None:
    """The page was read in a completion of the commit that pins the group: it raised, and nobody was answered."""
    store = BrokenStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "box"})
    client.send("box", b"one")
    store.broken.add(Table.MESSAGE)
    assert client.command("MSG.FETCH.box", {**FETCH, "config": NOW})["code"] == "DATA_DAMAGED"
    assert client.command("MSG.FETCH.box", {**FETCH, "config": NOW})["code"] == "DATA_DAMAGED"
    broker.close()


def test_a_waiting_fetch_that_meets_a_damaged_page_is_answered() -> None:
    store = BrokenStore()
    broker = InProcessBroker(store=store)
    alice, bob = broker.client(), broker.client()
    alice.command("MAILBOX.CREATE", {"name": "box"})
    replies = [alice.publish("MSG.FETCH.box", {**FETCH, "config": {"max_wait_ms": 30_000}}) for _ in range(2)]
    broker.loop.run()
    store.broken.add(Table.MESSAGE)
    bob.send("box", b"one")
    for reply in replies:
        [(_, payload)] = alice.replies(reply)
        assert b"DATA_DAMAGED" in payload
    broker.close()


def test_reclaiming_goes_on_after_a_table_could_not_be_read() -> None:
    """One error ended the tick that reclaims and that looks whether the disk has room, for good."""
    store = BrokenStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "box"})
    client.send("box", b"one", ttl=1)
    store.broken.add(Table.EXPIRY)
    broker.advance(2)
    store.broken.clear()
    broker.advance(2)
    assert client.command("MAILBOX.INFO.box")["messages"] == 0
    broker.close()


def test_reclaiming_goes_on_beyond_a_damaged_row() -> None:
    store = BrokenStore()
    broker = InProcessBroker(store=store, dedup_window_s=120)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "box"})
    for number in range(3):
        client.send("box", b"one", msg_id=f"id{number}")
    everything = (b"", b"\xff" * 32, 10)
    [first, *_] = store.scan(Table.DEDUP, *everything)
    batch = Batch()
    batch.put(Table.DEDUP, first[0], b"damaged")
    store.commit(batch)
    broker.advance(130)
    assert [key for key, _ in store.scan(Table.DEDUP, *everything)] == [first[0]]
    assert store.scan(Table.EXPIRY, *everything) == []
    assert broker.broker.counters.damaged_records == 1
    broker.close()


class Fragile(InProcessClient):
    """A connection that the first message it is told ends, as a slow consumer's is."""

    def receive(self, *message: object) -> None:
        self._broker.broker.client_closed(self)


def test_a_client_that_goes_while_it_is_answered_takes_nobody_along() -> None:
    """It waited twice: its second wait was out of the line when the first was answered, and what came after it got lost."""
    broker = InProcessBroker()
    sender, patient = broker.client(), broker.client()
    sender.command("MAILBOX.CREATE", {"name": "box"})
    fragile = Fragile(broker, 99, "")
    config = {"max_wait_ms": 30_000}
    for _ in range(2):
        fragile.publish("MSG.FETCH.box", {"group_name": "g", "tags": ["rare"], "config": config})
    broker.loop.run()  # they stand in line first
    fragile.publish("MSG.FETCH.box", {"config": config, "deliver": "latest"})
    waiting = patient.publish("MSG.FETCH.box", {"config": config, "deliver": "latest"})
    broker.loop.run()
    sender.send("box", b"hello")
    assert len(patient.replies(waiting)) == 1
    assert broker.broker.partition.fetching.waiting == 0
    [mailbox] = broker.broker.partition.mailboxes.active.values()
    assert not mailbox.waiters
    broker.close()


def rows_of(store: MemoryStore, table: Table) -> list[Row]:
    return store.scan(table, b"", b"\xff" * 64, 1000)


def move(store: MemoryStore, table: Table, old: bytes, new: bytes) -> None:
    """A flipped bit in a key: the row is found under another one."""
    value = store.get(table, old)
    assert value is not None
    batch = Batch()
    batch.delete(table, old)
    batch.put(table, new, value)
    store.commit(batch)


def test_a_damaged_expiry_row_ends_neither_the_start_nor_a_message() -> None:
    """A key that was cut made every start of the server raise; one whose time was flipped would have ended a message early."""
    store = BrokenStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "box"})
    client.send("box", b"cut", ttl=3600)
    client.send("box", b"flipped", ttl=3600)
    (cut, _), (flipped, _) = rows_of(store, Table.EXPIRY)
    move(store, Table.EXPIRY, cut, cut[:5])
    move(store, Table.EXPIRY, flipped, flipped[:4] + b"\0" + flipped[5:])
    broker.restart()
    broker.advance(2)
    client = broker.client()
    assert len(client.command("MSG.QUERY.box", {})["messages"]) == 2
    assert len(rows_of(store, Table.EXPIRY)) == 2, "what is damaged stays, for `mq9 verify` to name"
    assert broker.broker.counters.damaged_records == 2
    broker.close()


def test_a_damaged_trash_row_takes_no_living_mailbox() -> None:
    store = BrokenStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "alive"})
    client.send("alive", b"one")
    [(alive, _)] = rows_of(store, Table.STATE)
    batch = Batch()
    batch.put(Table.TRASH, alive, seal(b"another key", b""))
    store.commit(batch)
    broker.advance(2)
    assert len(client.command("MSG.QUERY.alive", {})["messages"]) == 1
    assert broker.broker.counters.damaged_records == 1
    broker.close()


def test_a_message_whose_key_is_damaged_does_not_lead_a_group_back() -> None:
    """Its id was believed: the group went on from there, and was given what it had confirmed."""
    store = BrokenStore()
    broker = InProcessBroker(store=store)
    client = broker.client()
    client.command("MAILBOX.CREATE", {"name": "box"})
    for number in range(6):
        client.send("box", b"%d" % number)
    body = {**FETCH, "config": {**NOW, "num_msgs": 3}, "encoding": "text"}
    assert [each["msg_id"] for each in client.command("MSG.FETCH.box", body)["messages"]] == [1, 2, 3]
    assert not client.command("MSG.ACK.box", {"group_name": "g", "msg_id": 3})["error"]
    fourth = rows_of(store, Table.MESSAGE)[3][0]
    store.swap_keys[fourth] = fourth[:-1] + b"\1"
    assert [each["msg_id"] for each in client.command("MSG.FETCH.box", body)["messages"]] == [5, 6]
    assert [each["msg_id"] for each in client.command("MSG.QUERY.box", {})["messages"]] == [1, 2, 3, 5, 6]
    broker.close()


def test_a_create_that_finds_the_mailbox_of_another_waits_until_that_is_durable() -> None:
    broker = InProcessBroker()
    client = broker.client()
    first = client.publish("MAILBOX.CREATE", {"name": "box"})
    second = client.publish("MAILBOX.CREATE", {"name": "box", "exist_ok": True})
    assert client.received == []
    broker.loop.run()
    [(_, made)], [(_, found)] = client.replies(first), client.replies(second)
    assert (msgspec.json.decode(made)["is_new"], msgspec.json.decode(found)["is_new"]) == (True, False)
    broker.close()
