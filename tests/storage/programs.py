"""Programs the storage tests run as processes of their own: python -m tests.storage.programs NAME ARGUMENTS

storm DIR COUNT [nosync] [thread]
    Commits the ledger to the store in DIR, going on where it ended, and says `ack N` when commit N has returned.
check
    For each line of input, a directory: opens the store in it, checks it against the ledger and answers with one line,
    `ok N` or `error CODE text`. A damaged file may end this process; whoever asks sees the end of its output.
hold DIR
    Opens the store in DIR, says `open`, and holds it until its input ends.
touch DIR
    Opens the store in DIR as a server does, crash marker included, reads everything in it and closes it.
inspect
    For each line of input, a directory that held the ledger: says `verify N` (findings), then opens and reads the store as
    a broker does and says `served WRONG DAMAGED MISSING`, or `refused CODE text`. The second line may never come.
obey DIR
    Holds the store in DIR and does what each line of input says: `commit` the next batch of the ledger, `read` and check
    everything, or say whether the store is `writable`. Answers `error CODE text` when that fails.
cramped DIR
    Fills the store in DIR in a process that may map hardly more memory than it has; says what came of it.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from mq9.clock import SystemClock
from mq9.errors import Mq9Error
from mq9.storage.commit import GroupCommit
from mq9.storage.findings import Finding
from mq9.storage.interface import Batch, Table
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.verify_child import check_directory
from tests.storage import ledger

BALLAST_BYTES = 64 * 1024
UNANSWERED = 64  # commits of the ledger a storm asks for before it waits: as a server, it does not outrun its disk


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def open_store(directory: str, *, sync: bool = True, crash_marker: bool = False) -> LmdbStore:
    return LmdbStore(Path(directory), sync=sync, reserve_bytes=0, ballast_bytes=BALLAST_BYTES, crash_marker=crash_marker)


def storm(directory: str, count: str, *options: str) -> None:
    store = open_store(directory, sync="nosync" not in options)
    book = ledger.Ledger()
    for _ in range(ledger.number_of(store)):
        book.next_batch()
    if "thread" not in options:
        for _ in range(int(count)):
            store.commit(book.next_batch())
            say(f"ack {book.number}")
    else:
        _storm_in_groups(store, book, int(count))
    store.close()


def _storm_in_groups(store: LmdbStore, book: ledger.Ledger, count: int) -> None:
    """The same through a GroupCommit on its writer thread, whose commits run beside this thread's work."""
    ready: deque[Callable[[], None]] = deque()
    answered = threading.Event()

    def call_soon_threadsafe(call: Callable[[], None]) -> None:
        ready.append(call)
        answered.set()

    commit = GroupCommit(store, SystemClock(), call_soon=ready.append, call_soon_threadsafe=call_soon_threadsafe, mode="thread")
    unanswered = 0

    def done(failure: Mq9Error | None, number: int) -> None:
        nonlocal unanswered
        unanswered -= 1
        assert failure is None, failure
        say(f"ack {number}")

    for _ in range(count):
        batch = book.next_batch()
        for table, changes in enumerate(batch.tables):
            commit.batch.tables[table].update(changes)
        commit.batch.bytes_staged += batch.bytes_staged
        commit.then(done, book.number)
        unanswered += 1
        while ready or unanswered >= UNANSWERED:
            if not ready:
                answered.wait()
            answered.clear()
            while ready:
                ready.popleft()()
    commit.close()


def check() -> None:
    for line in sys.stdin:
        try:
            store = open_store(line.strip())
            try:
                say(f"ok {ledger.check(store)}")
            finally:
                store.close()
        except Mq9Error as failure:
            say(f"error {failure.code} {failure.text}")
        except ledger.LedgerError as failure:
            say(f"error LEDGER {failure}")


def hold(directory: str) -> None:
    store = open_store(directory)
    say("open")
    sys.stdin.read()
    store.close()


def touch(directory: str) -> None:
    try:
        store = open_store(directory, crash_marker=True)
        for table in Table:
            store.scan(table, b"", ledger.END, 1 << 30)
        store.close()
    except Mq9Error as failure:
        say(f"error {failure.code} {failure.text}")
        sys.exit(1)
    say("ok")


def inspect() -> None:
    for line in sys.stdin:
        directory = Path(line.strip())
        findings: list[Finding] = []
        check_directory(directory, findings.append)
        say(f"verify {len(findings)}")
        try:
            store = open_store(str(directory))
        except Mq9Error as failure:
            say(f"refused {failure.code} {failure.text}")
            continue
        try:
            wrong, damaged, missing = ledger.compare(store)
            say(f"served {wrong} {damaged} {missing}")
        except Mq9Error as failure:
            say(f"refused {failure.code} {failure.text}")
        finally:
            store.close()


def cramped(directory: str) -> None:
    store = open_store(directory)
    store.commit(one_row(b"first", 1000))
    with Path("/proc/self/statm").open() as file:
        mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 64 * 1024 * 1024, resource.RLIM_INFINITY))
    number = 0
    try:
        for number in range(100):
            store.commit(one_row(b"%d" % number, 8_000_000))
    except Mq9Error as failure:
        say(failure.code)
    if store.get(Table.MESSAGE, b"first") is not None:
        say("readable")
    batch = Batch()
    batch.delete(Table.MESSAGE, b"0")
    store.commit(batch)
    say("deleted")
    store.close()


def one_row(key: bytes, size: int) -> Batch:
    batch = Batch()
    batch.put(Table.MESSAGE, key, os.urandom(size))
    return batch


def obey(directory: str) -> None:
    store = open_store(directory)
    book = ledger.Ledger()
    for line in sys.stdin:
        order = line.strip()
        try:
            if order == "commit":
                store.commit(book.next_batch())
                say(f"committed {book.number}")
            elif order == "read":
                say(f"read {ledger.check(store)}")
            else:
                say(f"writable {store.stat().writable}")
        except Mq9Error as failure:
            say(f"error {failure.code} {failure.text}")
    store.close()


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {
        each.__name__: each for each in (storm, check, hold, touch, inspect, cramped, obey)
    }
    programs[sys.argv[1]](*sys.argv[2:])
