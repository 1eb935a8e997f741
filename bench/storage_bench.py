"""What the store costs: sync latency, commits and puts a second, inline and on the writer thread, `then` alone.

    .venv/bin/python -m bench.storage_bench [--dir DIR] [--seconds 2]

One row is 256 bytes of payload under a message key. `outstanding` changes wait at any time: each completion stages the
next, as clients do that wait for their answers. Compare figures of one run; disks drift between runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from mq9.clock import SystemClock
from mq9.errors import Mq9Error
from mq9.protocol.message import StoredMessage
from mq9.storage import records
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.layout import message_key
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.memory_store import MemoryStore

MAILBOXES = 16
PAYLOAD = b"x" * 256


def percentile(samples: list[float], part: float) -> float:
    return sorted(samples)[min(int(len(samples) * part), len(samples) - 1)]


def spread(samples: list[float]) -> str:
    return f"p50 {percentile(samples, 0.5) * 1e6:7.0f} us  p99 {percentile(samples, 0.99) * 1e6:7.0f} us"


def timed(step: Callable[[], object], seconds: float) -> list[float]:
    """How long each call took, repeated for `seconds`."""
    samples = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        step()
        samples.append(time.perf_counter() - started)
    return samples


def raw_sync(directory: Path, seconds: float) -> None:
    fd = os.open(directory / "raw", os.O_RDWR | os.O_CREAT)

    def step() -> None:
        os.write(fd, bytes(4096))
        os.fdatasync(fd)

    samples = timed(step, seconds)
    os.close(fd)
    print(f"append 4 KiB + fdatasync             {spread(samples)}")


class Rows:
    """Message rows without end, spread over mailboxes."""

    def __init__(self, mailboxes: int) -> None:
        self.mailboxes = mailboxes
        self.number = 0

    def put(self, batch: Batch) -> None:
        self.number += 1
        key = message_key(self.number % self.mailboxes, 2, self.number)
        record = records.pack_message(key, StoredMessage(1, 0, b"", b"", b"", b"", PAYLOAD))
        batch.tables[Table.MESSAGE][key] = record
        batch.bytes_staged += len(key) + len(record)


def commits(store: LmdbStore, rows: Rows, size: int, seconds: float) -> None:
    syncs = []
    puts = []

    def step() -> None:
        batch = Batch()
        for _ in range(size):
            rows.put(batch)
        started = time.perf_counter()
        store.commit(batch)
        puts.append((time.perf_counter() - started - store.sync_s) / size)
        syncs.append(store.sync_s)

    timed(step, seconds)
    rest_us = percentile(puts, 0.5) * 1e6
    print(f"commit of {size:5} rows, {rows.mailboxes:2} mailboxes  sync {spread(syncs)}  the rest {rest_us:5.2f} us a row")


def reads(store: Store, seconds: float) -> None:
    """One get, and a FETCH-like scan of 100 rows, each at another place."""
    keys = [key for key, _ in store.scan(Table.MESSAGE, b"", b"\xff" * 32, 100_000)]
    place = 0

    def get() -> None:
        nonlocal place
        place = (place + 7919) % len(keys)
        store.get(Table.MESSAGE, keys[place])

    def scan() -> None:
        nonlocal place
        place = (place + 7919) % len(keys)
        store.scan(Table.MESSAGE, keys[place], b"\xff" * 32, 100)

    name = type(store).__name__
    print(f"{name:11} get                        {spread(timed(get, seconds / 4))}")
    print(f"{name:11} scan of 100 rows           {spread(timed(scan, seconds / 4))}")


async def group(store: Store, rows: Rows, mode: str, outstanding: int, seconds: float) -> None:
    """A closed loop of `outstanding` changes through the group commit."""
    loop = asyncio.get_running_loop()
    commit = GroupCommit(
        store, SystemClock(), call_soon=loop.call_soon, call_soon_threadsafe=loop.call_soon_threadsafe, mode=mode
    )
    ended = loop.create_future()
    end = loop.time() + seconds
    done = 0

    def answered(failure: Mq9Error | None) -> None:
        nonlocal done
        assert failure is None
        done += 1
        if loop.time() < end:
            rows.put(commit.batch)
            commit.then(answered)
        elif not ended.done():
            ended.set_result(None)

    started = loop.time()
    for _ in range(outstanding):
        rows.put(commit.batch)
        commit.then(answered)
    await ended
    elapsed = loop.time() - started
    commit.close()
    stats = commit.stats
    sync_us = stats.sync_sum_s / stats.commits * 1e6
    print(
        f"{type(store).__name__:11} {mode:6} {outstanding:5} outstanding {done / elapsed:9.0f} changes/s"
        f"  {stats.commits / elapsed:6.0f} commits/s  sync mean {sync_us:6.0f} us"
    )


def then_alone() -> None:
    turns: list[Callable[[], None]] = []
    commit = GroupCommit(MemoryStore(), SystemClock(), call_soon=turns.append, call_soon_threadsafe=turns.append)

    def done(failure: Mq9Error | None) -> None:
        """Nothing."""

    count = 4000  # fewer than make a batch full
    started = time.perf_counter()
    for _ in range(count):
        commit.then(done)
    print(f"GroupCommit.then                {(time.perf_counter() - started) / count * 1e6:.3f} us a call")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        then_alone()
        raw_sync(directory, options.seconds)
        store = LmdbStore(directory / "data", reserve_bytes=0)
        for size in (1, 16, 256, 1024):
            for mailboxes in (1, MAILBOXES):
                commits(store, Rows(mailboxes), size, options.seconds)
        stores: list[Store] = [store, MemoryStore()]
        rows = Rows(MAILBOXES)
        for each in stores:
            for outstanding in (1, 64, 256, 1024):
                for mode in ("inline", "thread"):
                    uvloop.run(group(each, rows, mode, outstanding, options.seconds))
        for each in stores:
            reads(each, options.seconds)
            each.close()


if __name__ == "__main__":
    main()
