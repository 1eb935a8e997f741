"""Group commit: everything that arrives while a commit runs goes into the next one; nobody is answered before it.

How to use it. Put the rows of one change into `commit.batch`, read anew each time, then call `then(done, ...)` once: the
rows before a `then` are one atomic change, and the batch may be exchanged inside `then`. `done(error, *args)` runs on the
loop after the commit returned, in the order of the `then` calls; `error` is None when the change is durable.

Failing. What is staged after a change was usually computed on top of it (counts, ids), so when a commit fails, everything
that is staged by then fails with it: first `on_failure(error)` is called, which must forget whatever memory holds of
uncommitted changes, then the completions in order. After STORAGE_FULL later changes may succeed; after STORAGE_FAILED
the store refuses them all.

Where a commit runs. Inline it holds the loop for one sync, which beats a thread hop on a fast disk (performance.md); on a
slow disk the writer thread takes over. `auto` decides by the measured sync time. No asyncio in here: the loop is two
callables.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Protocol

from mq9 import limits
from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.storage.interface import Batch, Store

log = logging.getLogger("mq9.storage")

Completion = tuple[Callable[..., None], tuple[Any, ...]]


class Commit(Protocol):
    """What a change is staged in and waits for: a GroupCommit, or in a cluster what stands in front of it for one slot."""

    batch: Batch
    on_failure: Callable[[Mq9Error], None] | None
    before_seal: Callable[[], None] | None

    @property
    def stats(self) -> CommitStats:
        """Counters of the commits."""

    @property
    def staged_bytes(self) -> int:
        """Bytes that are not durable yet."""

    def then(self, done: Callable[..., None], *args: Any) -> None:
        """Have `done(error_or_None, *args)` run after everything staged so far is durable, or has failed."""


_WAITING_MAX: Final = limits.COMMIT_OPS_MAX // 4  # completions of one transaction: a change is about four rows
_IDLE: Final = -1
_EWMA_WEIGHT: Final = 0.05
_SAMPLE_S_MAX: Final = 10 * limits.INLINE_COMMIT_S_MAX  # one stall of the disk must not hide twenty good syncs
_INLINE_AGAIN: Final = 0.5  # back to inline below this part of the limit: no flapping around it
_BUSY: Final = 0.5  # of the time in commits: above this a loop that other nodes wait for does not wait for the disk itself
_BUSY_NO_MORE: Final = 0.4

SYNC_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CHANGES_BUCKETS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


class CommitStats:
    """Counters since start. The `*_counts` are per bucket, not cumulative; their last element counts what is beyond."""

    __slots__ = (
        "busy_ewma",
        "bytes",
        "changes",
        "changes_counts",
        "commit_sum_s",
        "commits",
        "completions",
        "failures",
        "inline",
        "sync_counts",
        "sync_ewma_s",
        "sync_last_s",
        "sync_sum_s",
    )

    def __init__(self) -> None:
        self.commits = 0  # transactions that became durable
        self.failures = 0  # transactions that did not
        self.changes = 0  # rows put or deleted
        self.bytes = 0  # of keys and values
        self.completions = 0  # `then` calls answered without an error
        self.commit_sum_s = 0.0  # spent in commits; while they are inline, the loop did nothing else
        self.busy_ewma = 0.0  # share of the time in which a commit is under way, 0 to 1
        self.sync_last_s = 0.0  # the part of a commit that waits for the disk
        self.sync_ewma_s = 0.0
        self.sync_sum_s = 0.0
        self.inline = True  # where the next commit runs
        self.sync_counts = [0] * (len(SYNC_BUCKETS_S) + 1)
        self.changes_counts = [0] * (len(CHANGES_BUCKETS) + 1)

    def committed(self, batch: Batch, completions: int, sync_s: float) -> None:
        """Count one durable transaction."""
        changes = len(batch)
        self.commits += 1
        self.changes += changes
        self.bytes += batch.bytes_staged
        self.completions += completions
        self.sync_last_s = sync_s
        self.sync_sum_s += sync_s
        self.sync_ewma_s += _EWMA_WEIGHT * (min(sync_s, _SAMPLE_S_MAX) - self.sync_ewma_s)
        self.sync_counts[bisect_left(SYNC_BUCKETS_S, sync_s)] += 1
        self.changes_counts[bisect_left(CHANGES_BUCKETS, changes)] += 1


class _Group:
    """Changes of one transaction and who waits for it."""

    __slots__ = ("batch", "waiting")

    def __init__(self, batch: Batch, waiting: list[Completion]) -> None:
        self.batch = batch
        self.waiting = waiting


class GroupCommit:
    """The one way to write. Everything but the writer thread's own function runs on the loop's thread.

    At most one commit is under way. `_seal_at` is the one test of the hot path: _IDLE while nothing is scheduled, so that
    the first `then` schedules a commit, and otherwise the size at which a batch is put in the queue behind the others.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        call_soon_threadsafe: Callable[[Callable[[], None]], object],
        mode: str = "auto",
    ) -> None:
        """`mode` is `auto`, `inline` or `thread`. Two attributes are set by whoever keeps state in memory: `on_failure`,
        and `before_seal`, called just before a batch is closed to put the rows that are written once a batch."""
        self.batch = Batch()
        self.stats = CommitStats()
        self.stats.inline = mode != "thread"
        self.on_failure: Callable[[Mq9Error], None] | None = None
        self.before_seal: Callable[[], None] | None = None
        self.told_replicas = False  # `before_seal` sent something to other nodes: they can write while this one does
        self.others_wait = False  # other nodes wait for what this loop does, and not only for its disk
        self._commit_s = 0.0  # what the last commit took
        self._finished_s = clock.monotonic_s()  # when the loop took it back
        self._store = store
        self._clock = clock
        self._call_soon = call_soon
        self._call_soon_threadsafe = call_soon_threadsafe
        self._auto = mode == "auto"
        self._waiting: list[Completion] = []
        self._queue: deque[_Group] = deque()  # full groups, oldest first
        self._queued_bytes = 0  # of the queue and of the commit under way
        self._seal_at = _IDLE
        self._closed = False
        self._thread: threading.Thread | None = None
        self._to_thread: SimpleQueue[_Group | None] = SimpleQueue()
        self._from_thread: deque[tuple[_Group, Mq9Error | None]] = deque()

    # --- Staging ------------------------------------------------------------------------------------------------

    def then(self, done: Callable[..., None], *args: Any) -> None:
        """Have `done(error_or_None, *args)` run after everything staged so far is durable, or has failed."""
        waiting = self._waiting
        waiting.append((done, args))
        if self.batch.bytes_staged > self._seal_at or len(waiting) > _WAITING_MAX:
            self._schedule_or_seal()

    @property
    def staged_bytes(self) -> int:
        """Bytes that are not durable yet; above STAGED_BYTES_MAX senders should not be read."""
        return self._queued_bytes + self.batch.bytes_staged

    def seal(self) -> None:
        """Close the open batch now: what is staged from here on goes into a later transaction."""
        self._seal()

    def _schedule_or_seal(self) -> None:
        if self._closed:
            self._refuse()
        elif self._seal_at == _IDLE:
            self._seal_at = limits.COMMIT_BYTES_MAX
            self._call_soon(self._turn)
        else:
            self._seal()

    def _seal(self) -> None:
        """Close the open batch, put it into the queue and open a new one."""
        if self.before_seal is not None:
            self.before_seal()
        self._push()

    def _push(self) -> None:
        self._queue.append(_Group(self.batch, self._waiting))
        self._queued_bytes += self.batch.bytes_staged
        self.batch = Batch()
        self._waiting = []

    # --- Committing ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Start the next commit: the oldest full group, else what is open."""
        if self._closed:
            return  # close() has committed what there was
        if not self._queue:
            if not self._waiting and not self.batch:
                self._seal_at = _IDLE
                return
            self._seal()
            if self.told_replicas and self.stats.inline:
                self._call_soon(self._start)  # what `before_seal` sent is on its way before the disk holds the loop
                return
        self._start()

    def _start(self) -> None:
        if self._closed:
            return
        group = self._queue.popleft()
        if self.stats.inline:
            self._finish(group, self._commit(group.batch))
        else:
            self._hand_over(group)

    def _commit(self, batch: Batch) -> Mq9Error | None:
        """Commit on this thread, whichever it is. Returns what to tell the completions."""
        started_s = self._clock.monotonic_s()
        try:
            self._store.commit(batch)
        except Mq9Error as failure:
            return failure
        except Exception:  # a bug of ours or of the store must reach those who wait, not end the loop or the thread
            log.exception("a commit failed in an unforeseen way")
            return error("INTERNAL")
        finally:
            self._commit_s = self._clock.monotonic_s() - started_s
            self.stats.commit_sum_s += self._commit_s
        return None

    def _finish(self, group: _Group, failure: Mq9Error | None) -> None:
        """Back on the loop after a commit: count it, start the next, and only then answer, so the disk never waits."""
        self._queued_bytes -= group.batch.bytes_staged
        if failure is not None:
            self.stats.failures += 1
            self._fail(failure, group.waiting)
        elif group.batch:
            self.stats.committed(group.batch, len(group.waiting), self._store.sync_s)
            self._choose_place()
        else:
            self.stats.completions += len(group.waiting)
        if not self._closed:
            self._continue()
        if failure is None:
            complete(group.waiting, None)

    def _continue(self) -> None:
        """Start or schedule the next commit, or fall idle."""
        if not self._queue and not self._waiting and not self.batch:
            self._seal_at = _IDLE
        elif self.stats.inline:
            self._call_soon(self._turn)  # the loop reads its sockets between two inline commits
        else:
            self._turn()

    def _choose_place(self) -> None:
        """Where the next commit runs. In the loop it costs least. A slow disk would hold the loop up; and so does a fast one
        that is in use most of the time, which matters where other nodes wait for the loop."""
        if not self._auto:
            return
        stats = self.stats
        now = self._clock.monotonic_s()
        if now > self._finished_s:
            stats.busy_ewma += _EWMA_WEIGHT * (min(self._commit_s / (now - self._finished_s), 1.0) - stats.busy_ewma)
        self._finished_s = now
        busy = stats.busy_ewma if self.others_wait else 0.0
        if stats.sync_ewma_s > limits.INLINE_COMMIT_S_MAX or busy > _BUSY:
            stats.inline = False
        elif stats.sync_ewma_s < _INLINE_AGAIN * limits.INLINE_COMMIT_S_MAX and busy < _BUSY_NO_MORE:
            stats.inline = True

    def _fail(self, failure: Mq9Error, waiting: list[Completion]) -> None:
        """Fail `waiting` and everything staged after it: it was computed on changes that do not exist now."""
        self._push()
        later = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self._forget(failure)
        complete(waiting, failure)
        for group in later:
            complete(group.waiting, failure)

    def _refuse(self) -> None:
        """Closed: fail what is open and nothing else."""
        waiting, self._waiting = self._waiting, []
        self.batch = Batch()
        failure = error("UNAVAILABLE", reason="the broker is stopping")
        self._forget(failure)
        complete(waiting, failure)

    def _forget(self, failure: Mq9Error) -> None:
        """Have memory forget what was not committed. That reads the store, which may be past reading; whoever waits for an
        answer gets it all the same."""
        if self.on_failure is None:
            return
        try:
            self.on_failure(failure)
        except Mq9Error as trouble:
            log.critical("what is in memory may be ahead of the store: %s", trouble.text)

    # --- The writer thread --------------------------------------------------------------------------------------

    def _hand_over(self, group: _Group) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_groups, name="mq9-commit", daemon=True)
            self._thread.start()
        self._to_thread.put(group)

    def _write_groups(self) -> None:
        """The writer thread: commit what comes until None comes."""
        while (group := self._to_thread.get()) is not None:
            self._from_thread.append((group, self._commit(group.batch)))
            try:
                self._call_soon_threadsafe(self._collect)
            except RuntimeError:
                log.debug("the loop is closed; close() collects the last commit")

    def _collect(self) -> None:
        """On the loop: take back what the writer thread has committed."""
        while self._from_thread:
            self._finish(*self._from_thread.popleft())

    # --- Ending -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Commit everything that is staged, wait for it, and run its completions before returning. The store stays open."""
        if self._closed:
            return
        if self._waiting or self.batch:
            self._seal()
        self._closed = True
        self._seal_at = _IDLE  # from here on a `then` is refused at once
        if self._thread is not None:
            self._to_thread.put(None)
            self._thread.join()
            self._collect()
        while self._queue:
            group = self._queue.popleft()
            self._finish(group, self._commit(group.batch))


def complete(waiting: list[Completion], failure: Mq9Error | None) -> None:
    """Run completions, in order."""
    for done, args in waiting:
        try:
            done(failure, *args)
        except Exception:  # one completion's bug must not leave the others without an answer
            log.exception("a completion failed")
