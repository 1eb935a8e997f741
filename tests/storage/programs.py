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
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from mq9.clock import SystemClock
from mq9.errors import Mq9Error
from mq9.storage.commit import GroupCommit
from mq9.storage.findings import Finding
from mq9.storage.interface import Table
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.verify_child import check_directory
from tests.storage import ledger

BALLAST_BYTES = 64 * 1024


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
    commit = GroupCommit(store, SystemClock(), call_soon=ready.append, call_soon_threadsafe=ready.append, mode="thread")

    def done(failure: Mq9Error | None, number: int) -> None:
        assert failure is None, failure
        say(f"ack {number}")

    for _ in range(count):
        batch = book.next_batch()
        for table, changes in enumerate(batch.tables):
            commit.batch.tables[table].update(changes)
        commit.batch.bytes_staged += batch.bytes_staged
        commit.then(done, book.number)
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


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {each.__name__: each for each in (storm, check, hold, touch, inspect)}
    programs[sys.argv[1]](*sys.argv[2:])
