"""The storage contract, for every store: what mq9/storage/interface.py says in words."""

from __future__ import annotations

import threading

import hypothesis
import pytest
from hypothesis import strategies as st

from mq9.storage.format import KEY_BYTES_MAX, check_format_row
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.layout import FORMAT_KEY
from mq9.storage.memory_store import MemoryStore
from tests.storage.conftest import batch_of

END = b"\xff" * 32


def everything(store: Store, table: Table) -> list[tuple[bytes, bytes]]:
    return store.scan(table, b"", END, 1 << 30)


def test_a_new_store_is_empty_but_for_its_format(store: Store) -> None:
    for table in Table:
        rows = dict(everything(store, table))
        if table == Table.META:
            check_format_row(rows[FORMAT_KEY], "the store")
        else:
            assert rows == {}


def test_what_was_committed_is_there_and_nothing_else(store: Store) -> None:
    store.commit(batch_of((Table.MESSAGE, b"a", b"1"), (Table.GROUP, b"a", b"2")))
    assert store.get(Table.MESSAGE, b"a") == b"1"
    assert store.get(Table.GROUP, b"a") == b"2"
    assert store.get(Table.MESSAGE, b"b") is None
    assert store.get(Table.KEY, b"a") is None


def test_a_batch_that_is_not_committed_is_not_there(store: Store) -> None:
    batch_of((Table.MESSAGE, b"a", b"1"))
    assert store.get(Table.MESSAGE, b"a") is None


def test_a_later_commit_replaces_and_deletes(store: Store) -> None:
    store.commit(batch_of((Table.KEY, b"a", b"1"), (Table.KEY, b"b", b"1")))
    store.commit(batch_of((Table.KEY, b"a", b"2"), (Table.KEY, b"b", None)))
    assert everything(store, Table.KEY) == [(b"a", b"2")]


def test_for_one_key_the_last_change_of_a_batch_wins(store: Store) -> None:
    store.commit(batch_of((Table.KEY, b"a", b"1"), (Table.KEY, b"a", None), (Table.KEY, b"b", None), (Table.KEY, b"b", b"2")))
    assert everything(store, Table.KEY) == [(b"b", b"2")]


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.commit(batch_of((Table.EXPIRY, b"nobody", None)))
    assert everything(store, Table.EXPIRY) == []


def test_many_keys_are_read_at_once_in_the_order_asked(store: Store) -> None:
    store.commit(batch_of((Table.MESSAGE, b"a", b"1"), (Table.GROUP, b"a", b"2")))
    wanted = [(Table.GROUP, b"a"), (Table.MESSAGE, b"none"), (Table.MESSAGE, b"a")]
    assert store.get_many(wanted) == [b"2", None, b"1"]
    assert store.get_many([]) == []


def test_an_empty_batch_commits(store: Store) -> None:
    store.commit(Batch())


def test_empty_values_are_kept(store: Store) -> None:
    store.commit(batch_of((Table.EXPIRY, b"k", b"")))
    assert store.get(Table.EXPIRY, b"k") == b""
    assert store.last(Table.EXPIRY, b"", END) == (b"k", b"")


def test_rows_come_in_byte_order_whatever_order_they_were_put_in(store: Store) -> None:
    keys = [b"b", b"a", b"ab", b"\x00", b"a\x00", b"\xff", b"aa"]
    for key in keys:
        store.commit(batch_of((Table.MESSAGE, key, key * 2)))
    assert [key for key, _ in everything(store, Table.MESSAGE)] == sorted(keys)


def test_scan_takes_start_and_leaves_stop(store: Store) -> None:
    store.commit(batch_of(*((Table.MESSAGE, bytes([n]), b"v") for n in range(10))))
    assert [key[0] for key, _ in store.scan(Table.MESSAGE, b"\x03", b"\x06", 100)] == [3, 4, 5]
    assert store.scan(Table.MESSAGE, b"\x03", b"\x03", 100) == []
    assert store.scan(Table.MESSAGE, b"\x06", b"\x03", 100) == []
    assert store.scan(Table.MESSAGE, b"\x0a", b"\x0b", 100) == []


def test_keys_are_those_of_a_scan(store: Store) -> None:
    store.commit(batch_of(*((Table.MESSAGE, bytes([n]), b"v" * n) for n in range(10))))
    for start, stop, limit in [(b"", END, 100), (b"", END, 4), (b"\x03", b"\x06", 100), (b"\x06", b"\x03", 100), (b"", END, 0)]:
        assert store.keys(Table.MESSAGE, start, stop, limit) == [key for key, _ in store.scan(Table.MESSAGE, start, stop, limit)]
    assert store.keys(Table.MESSAGE, b"\x0a", b"\x0b", 100) == []
    assert store.keys(Table.KEY, b"", END, 100) == []


def test_scan_stops_at_its_limit(store: Store) -> None:
    store.commit(batch_of(*((Table.MESSAGE, bytes([n]), b"v") for n in range(10))))
    assert [key[0] for key, _ in store.scan(Table.MESSAGE, b"", END, 4)] == [0, 1, 2, 3]
    assert store.scan(Table.MESSAGE, b"", END, 0) == []


@pytest.mark.parametrize(("bytes_max", "found"), [(1, 1), (10, 1), (11, 2), (20, 2), (25, 3), (1000, 5)])
def test_scan_stops_once_its_bytes_are_reached_but_gives_one_row(store: Store, bytes_max: int, found: int) -> None:
    store.commit(batch_of(*((Table.MESSAGE, bytes([n]), b"v" * 10) for n in range(5))))
    assert len(store.scan(Table.MESSAGE, b"", END, 100, bytes_max)) == found


def test_last_is_the_greatest_key_of_the_range(store: Store) -> None:
    assert store.last(Table.DELAYED, b"", END) is None
    store.commit(batch_of(*((Table.DELAYED, bytes([n]), bytes([n, n])) for n in (2, 4, 6))))
    assert store.last(Table.DELAYED, b"", END) == (b"\x06", b"\x06\x06")
    assert store.last(Table.DELAYED, b"\x01", b"\x06") == (b"\x04", b"\x04\x04")
    assert store.last(Table.DELAYED, b"\x04", b"\x05") == (b"\x04", b"\x04\x04")
    assert store.last(Table.DELAYED, b"\x05", b"\x06") is None
    assert store.last(Table.DELAYED, b"\x00", b"\x01") is None
    assert store.last(Table.DELAYED, b"\x07", END) is None


@pytest.mark.parametrize("key", [b"", b"k" * (KEY_BYTES_MAX + 1)], ids=["empty", "too long"])
def test_a_key_no_store_can_take_is_a_bug_and_changes_nothing(store: Store, key: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        store.commit(batch_of((Table.KEY, b"good", b"1"), (Table.MESSAGE, key, b"1")))
    assert everything(store, Table.KEY) == []
    store.commit(batch_of((Table.KEY, b"k" * KEY_BYTES_MAX, b"1")))
    assert store.get(Table.KEY, b"k" * KEY_BYTES_MAX) == b"1"


def test_large_values_come_back_whole(store: Store) -> None:
    value = bytes(range(256)) * 16 * 1024
    store.commit(batch_of((Table.MESSAGE, b"big", value), (Table.MESSAGE, b"small", b"s")))
    assert store.get(Table.MESSAGE, b"big") == value
    assert store.scan(Table.MESSAGE, b"", END, 10) == [(b"big", value), (b"small", b"s")]


def test_used_bytes_grow_with_data_and_shrink_with_deletes(store: Store) -> None:
    keys = [n.to_bytes(4, "big") for n in range(2000)]
    before = store.stat().used_bytes
    store.commit(batch_of(*((Table.MESSAGE, key, b"v" * 500) for key in keys)))
    full = store.stat()
    assert full.used_bytes - before >= 2000 * 500
    assert full.file_bytes >= full.used_bytes
    assert full.writable
    store.commit(batch_of(*((Table.MESSAGE, key, None) for key in keys)))
    assert store.stat().used_bytes < before + 100_000


def test_readers_on_other_threads_see_whole_batches_only(store: Store) -> None:
    done = threading.Event()
    torn: list[object] = []

    def read() -> None:
        while not done.is_set():
            values = {value for _, value in store.scan(Table.STATE, b"", END, 100)}
            if len(values) > 1:
                torn.append(values)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        store.commit(batch_of(*((Table.STATE, bytes([n]), b"%d" % number) for n in range(20))))
    done.set()
    reader.join()
    assert torn == []


Change = tuple[int, bytes, bytes | None]
changes = st.lists(
    st.tuples(st.integers(0, len(Table) - 1), st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=20)), max_size=30
)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(batches=st.lists(changes, max_size=5), start=st.binary(max_size=3), stop=st.binary(min_size=1, max_size=3))
def test_any_sequence_of_batches_leaves_what_a_dict_would(
    store: Store, batches: list[list[Change]], start: bytes, stop: bytes
) -> None:
    wipe = Batch()
    for table in Table:
        for key, _ in everything(store, table):
            if (table, key) != (Table.META, FORMAT_KEY) and key != b"commit":
                wipe.delete(table, key)
    store.commit(wipe)
    model: dict[tuple[int, bytes], bytes] = {}
    for rows in batches:
        store.commit(batch_of(*((Table(table), key, value) for table, key, value in rows)))
        for number, key, value in rows:
            if value is None:
                model.pop((number, key), None)
            else:
                model[number, key] = value
    for table in Table:
        if table == Table.META:
            continue
        expected = sorted((key, value) for (number, key), value in model.items() if number == table and start <= key < stop)
        assert store.scan(table, start, stop, 1000) == expected
        assert store.last(table, start, stop) == (expected[-1] if expected else None)
        for key, value in expected:
            assert store.get(table, key) == value


def test_a_full_memory_store_refuses_growth_and_takes_deletes() -> None:
    store = MemoryStore(bytes_max=10_000)
    store.commit(batch_of((Table.MESSAGE, b"a", b"v" * 9_900)))
    assert not store.stat().writable
    with pytest.raises(Exception, match="storage full"):
        store.commit(batch_of((Table.MESSAGE, b"b", b"v" * 200)))
    assert store.get(Table.MESSAGE, b"b") is None
    store.commit(batch_of((Table.MESSAGE, b"a", None)))
    assert store.stat().writable
    store.commit(batch_of((Table.MESSAGE, b"b", b"v" * 200)))
