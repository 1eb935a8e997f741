"""Group commit: order, atomicity, where it runs, and what everybody is told when a commit fails."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mq9 import limits
from mq9.clock import Clock, SystemClock
from mq9.errors import Mq9Error, error
from mq9.storage.commit import CHANGES_BUCKETS, GroupCommit
from mq9.storage.interface import Batch, Row, StoreStat, Table
from mq9.storage.memory_store import MemoryStore
from mq9.testing.clock import ManualClock

END = b"\xff" * 32


class Loop:
    """A loop of two queues: what runs next, and what other threads handed in."""

    def __init__(self) -> None:
        self.ready: deque[Callable[[], None]] = deque()
        self.handed_in: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def turn(self) -> None:
        """Run what is ready now; what that schedules waits for the next turn."""
        for _ in range(len(self.ready)):
            self.ready.popleft()()

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Turn until `condition` holds, waiting for other threads where nothing is ready."""
        while not condition():
            if self.ready:
                self.turn()
            else:
                self.handed_in.get(timeout=30)()


class ScriptedStore:
    """A MemoryStore that fails, stalls or claims slow syncs when told to, and remembers its commits."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.sync_s = 0.0
        self.failures: deque[Exception | None] = deque()
        self.gate = threading.Event()  # commits wait for it
        self.gate.set()
        self.entered = threading.Event()  # set when a commit begins
        self.commits: list[int] = []  # changes in each
        self.threads: list[str] = []

    def commit(self, batch: Batch) -> None:
        self.entered.set()
        assert self.gate.wait(30)
        self.threads.append(threading.current_thread().name)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        self.memory.commit(batch)
        self.commits.append(len(batch))

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self.memory.get(table, key)

    def get_many(self, keys: Iterable[tuple[Table, bytes]]) -> list[bytes | None]:
        return self.memory.get_many(keys)

    def scan(self, table: Table, start: bytes, stop: bytes, limit: int, bytes_max: int = 1 << 62) -> list[Row]:
        return self.memory.scan(table, start, stop, limit, bytes_max)

    def keys(self, table: Table, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        return self.memory.keys(table, start, stop, limit)

    def last(self, table: Table, start: bytes, stop: bytes) -> Row | None:
        return self.memory.last(table, start, stop)

    def stat(self) -> StoreStat:
        return self.memory.stat()

    def close(self) -> None:
        self.memory.close()


class Bench:
    """A group commit over a scripted store, with a log of what completions were told."""

    def __init__(self, mode: str, clock: Clock | None = None) -> None:
        self.loop = Loop()
        self.store = ScriptedStore()
        self.commit = GroupCommit(
            self.store,
            clock or SystemClock(),
            call_soon=self.loop.ready.append,
            call_soon_threadsafe=self.loop.handed_in.put,
            mode=mode,
        )
        self.told: list[tuple[str | None, Any]] = []

    def send(self, name: Any, size: int = 1) -> None:
        """Stage one row and have its completion recorded under `name`."""
        self.commit.batch.put(Table.MESSAGE, str(name).encode(), b"v" * size)
        self.commit.then(self.record, name)

    def record(self, failure: Mq9Error | None, name: Any) -> None:
        self.told.append((failure.code if failure else None, name))

    def settle(self, count: int) -> None:
        self.loop.run_until(lambda: len(self.told) >= count)

    def stored(self) -> list[str]:
        return [key.decode() for key, _ in self.store.scan(Table.MESSAGE, b"", END, 1 << 30)]


@pytest.fixture(params=["inline", "thread"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.store.gate.set()
    made.commit.close()


def test_nobody_is_told_before_the_commit_returned(bench: Bench) -> None:
    def check(failure: Mq9Error | None) -> None:
        assert failure is None
        bench.told.append((None, bench.stored()))

    bench.commit.batch.put(Table.MESSAGE, b"a", b"1")
    bench.commit.then(check)
    assert bench.told == []
    assert bench.stored() == []
    bench.settle(1)
    assert bench.told == [(None, ["a"])]


def test_what_is_staged_in_one_turn_is_one_transaction(bench: Bench) -> None:
    for number in range(100):
        bench.send(number)
    bench.settle(100)
    assert bench.store.commits == [100]
    assert bench.told == [(None, number) for number in range(100)]


def test_what_is_staged_while_a_commit_runs_goes_into_the_next() -> None:
    bench = Bench("thread")
    bench.store.gate.clear()
    bench.send("first")
    bench.loop.turn()
    assert bench.store.entered.wait(30)
    for number in range(5):
        bench.send(number)
    bench.store.gate.set()
    bench.settle(6)
    assert bench.store.commits == [1, 5]
    assert [name for _, name in bench.told] == ["first", 0, 1, 2, 3, 4]
    bench.commit.close()


def test_completions_that_stage_more_are_served(bench: Bench) -> None:
    def chain(failure: Mq9Error | None, left: int) -> None:
        bench.told.append((None, left))
        if left:
            bench.commit.batch.put(Table.MESSAGE, b"%d" % left, b"")
            bench.commit.then(chain, left - 1)

    bench.commit.then(chain, 5)
    bench.settle(6)
    assert [left for _, left in bench.told] == [5, 4, 3, 2, 1, 0]
    assert bench.stored() == ["1", "2", "3", "4", "5"]
    bench.send("after it fell idle")
    bench.settle(7)


def test_a_completion_without_changes_waits_for_those_before_it(bench: Bench) -> None:
    bench.send("change")
    bench.loop.turn()  # the commit of `change` is under way, or done, but nobody was told
    bench.commit.then(bench.record, "nothing")
    bench.settle(2)
    assert bench.told == [(None, "change"), (None, "nothing")]


def test_many_waiters_and_many_bytes_are_split_into_bounded_transactions(bench: Bench) -> None:
    for number in range(limits.COMMIT_OPS_MAX):
        bench.send(number)
    size = limits.COMMIT_BYTES_MAX // 8
    for number in range(40):
        bench.send(f"big{number}", size)
    expected = limits.COMMIT_OPS_MAX + 40
    bench.settle(expected)
    assert len(bench.store.commits) >= 8
    assert max(bench.store.commits) <= limits.COMMIT_OPS_MAX // 2
    assert [name for _, name in bench.told] == [*range(limits.COMMIT_OPS_MAX), *(f"big{n}" for n in range(40))]
    assert len(bench.stored()) == expected


def test_staged_bytes_count_what_is_not_durable(bench: Bench) -> None:
    assert bench.commit.staged_bytes == 0
    for number in range(3):
        bench.send(number, limits.COMMIT_BYTES_MAX)
    assert bench.commit.staged_bytes >= 3 * limits.COMMIT_BYTES_MAX
    bench.settle(3)
    assert bench.commit.staged_bytes == 0


def test_a_full_store_fails_those_who_wait_and_takes_later_changes(bench: Bench) -> None:
    bench.store.failures.append(error("STORAGE_FULL"))
    bench.send("a")
    bench.send("b")
    bench.settle(2)
    assert bench.told == [("STORAGE_FULL", "a"), ("STORAGE_FULL", "b")]
    bench.send("c")
    bench.settle(3)
    assert bench.told[2] == (None, "c")
    assert bench.stored() == ["c"]


def test_changes_staged_on_top_of_a_failed_one_fail_with_it(bench: Bench) -> None:
    """They were computed from counts and ids that were never stored."""
    forgotten: list[tuple[str, int]] = []
    bench.commit.on_failure = lambda failure: forgotten.append((failure.code, len(bench.told)))
    bench.store.failures.append(error("STORAGE_FULL"))
    bench.send("failed", limits.COMMIT_BYTES_MAX + 1)
    bench.send("queued behind", limits.COMMIT_BYTES_MAX + 1)
    bench.send("open")
    bench.settle(3)
    assert bench.told == [("STORAGE_FULL", "failed"), ("STORAGE_FULL", "queued behind"), ("STORAGE_FULL", "open")]
    assert forgotten == [("STORAGE_FULL", 0)], "memory is put right once, before anybody is told"
    assert bench.stored() == []
    assert bench.commit.staged_bytes == 0
    bench.send("after")
    bench.settle(4)
    assert bench.told[3] == (None, "after")


def test_a_change_staged_by_a_failing_completion_is_a_new_one(bench: Bench) -> None:
    def again(failure: Mq9Error | None) -> None:
        assert failure is not None
        bench.send("second try")

    bench.store.failures.append(error("STORAGE_FULL"))
    bench.commit.batch.put(Table.MESSAGE, b"x", b"")
    bench.commit.then(again)
    bench.settle(1)
    assert bench.told == [(None, "second try")]


def test_a_failed_store_fails_everything_from_then_on(bench: Bench) -> None:
    bench.store.failures.extend([error("STORAGE_FAILED", reason="fsync")] * 3)
    for number in range(3):
        bench.send(number)
        bench.settle(number + 1)
    assert [code for code, _ in bench.told] == ["STORAGE_FAILED"] * 3
    assert bench.commit.stats.failures == 3
    assert bench.commit.stats.commits == 0


def test_who_waits_is_told_although_memory_cannot_be_reset(bench: Bench) -> None:
    """A disk that failed under the meta page leaves LMDB unreadable: the reset read it, raised, and nobody got an answer."""

    def reset(failure: Mq9Error) -> None:
        raise error("STORAGE_FAILED", reason="nothing can be read")

    bench.commit.on_failure = reset
    bench.store.failures.append(error("STORAGE_FAILED", reason="fsync"))
    bench.send("a")
    bench.settle(1)
    assert bench.told == [("STORAGE_FAILED", "a")]


def test_a_bug_in_the_store_is_told_and_not_fatal(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.store.failures.append(RuntimeError("unforeseen"))
    bench.send("a")
    bench.settle(1)
    assert bench.told == [("INTERNAL", "a")]
    assert "unforeseen" in caplog.text
    bench.send("b")
    bench.settle(2)
    assert bench.told[1] == (None, "b")


def test_a_bug_in_one_completion_leaves_the_others_their_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def broken(failure: Mq9Error | None) -> None:
        raise RuntimeError("bug in a handler")

    bench.send("a")
    bench.commit.then(broken)
    bench.send("b")
    bench.settle(2)
    assert bench.told == [(None, "a"), (None, "b")]
    assert "bug in a handler" in caplog.text


def test_close_commits_and_answers_what_is_staged(bench: Bench) -> None:
    bench.send("a", limits.COMMIT_BYTES_MAX + 1)
    bench.send("b")
    bench.loop.turn()
    bench.send("c")
    bench.commit.close()
    assert bench.told == [(None, "a"), (None, "b"), (None, "c")]
    assert bench.stored() == ["a", "b", "c"]


def test_after_close_a_change_is_refused_at_once(bench: Bench) -> None:
    bench.commit.close()
    bench.send("late")
    assert bench.told == [("UNAVAILABLE", "late")]
    assert bench.stored() == []
    bench.commit.close()


def test_a_completion_of_close_that_stages_more_is_refused(bench: Bench) -> None:
    bench.commit.batch.put(Table.MESSAGE, b"x", b"")
    bench.commit.then(lambda failure: bench.send("more"))
    bench.send("y")
    bench.commit.close()
    assert ("UNAVAILABLE", "more") in bench.told
    assert (None, "y") in bench.told
    assert bench.stored() == ["x", "y"]


def test_close_fails_the_rest_when_a_commit_fails(bench: Bench) -> None:
    bench.store.failures.append(error("STORAGE_FULL"))
    bench.send("a", limits.COMMIT_BYTES_MAX + 1)
    bench.send("b")
    bench.commit.close()
    assert bench.told == [("STORAGE_FULL", "a"), ("STORAGE_FULL", "b")]


def test_auto_moves_to_the_thread_on_a_slow_disk_and_back() -> None:
    bench = Bench("auto")

    def commit_once() -> str:
        bench.send(len(bench.told))
        bench.settle(len(bench.told) + 1)
        return bench.store.threads[-1]

    here = threading.current_thread().name
    assert {commit_once() for _ in range(10)} == {here}
    bench.store.sync_s = 10 * limits.INLINE_COMMIT_S_MAX
    commit_once()
    assert commit_once() == here, "one stall is not a slow disk"
    for _ in range(10):
        commit_once()
    assert commit_once() == "mq9-commit"
    bench.store.sync_s = 0.8 * limits.INLINE_COMMIT_S_MAX  # better, but not so much better that it would stay
    for _ in range(200):
        commit_once()
    assert commit_once() == "mq9-commit"
    bench.store.sync_s = 0.1 * limits.INLINE_COMMIT_S_MAX
    for _ in range(200):
        commit_once()
    assert commit_once() == here
    assert [code for code, _ in bench.told] == [None] * len(bench.told)
    bench.commit.close()


@pytest.mark.parametrize("others_wait", [True, False])
def test_auto_keeps_a_busy_disk_out_of_a_loop_that_other_nodes_wait_for(others_wait: bool) -> None:
    """Eight clients with a mailbox each, led by three brokers: each broker's loop stood still for the disk of the others."""
    clock = ManualClock()
    bench = Bench("auto", clock)
    bench.commit.others_wait = others_wait
    commit = bench.store.commit

    def slowly(batch: Batch) -> None:
        clock.advance(1)
        commit(batch)

    bench.store.commit = slowly  # type: ignore[method-assign]

    def commit_after(idle_s: int) -> str:
        for _ in range(200):
            clock.advance(idle_s)
            bench.send(len(bench.told))
            bench.settle(len(bench.told) + 1)
        return bench.store.threads[-1]

    here = threading.current_thread().name
    there = "mq9-commit" if others_wait else here
    assert [commit_after(idle_s) for idle_s in (4, 0, 4)] == [here, there, here]
    bench.commit.close()


def test_counters_say_what_happened(bench: Bench) -> None:
    bench.store.sync_s = 0.003
    for number in range(3):
        bench.send(number, 9)
    bench.settle(3)
    stats = bench.commit.stats
    assert (stats.commits, stats.changes, stats.bytes, stats.completions, stats.failures) == (1, 3, 30, 3, 0)
    assert stats.sync_last_s == 0.003
    assert sum(stats.sync_counts) == sum(stats.changes_counts) == 1
    assert stats.changes_counts[CHANGES_BUCKETS.index(4)] == 1
