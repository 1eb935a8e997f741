"""One heap of timers for everything the domain waits for: leases, long polls, delayed messages, reclaiming.

The heap knows no event loop. Its owner asks `next_deadline_s` and calls `run_due`, so a test can own time, and a million
timers cost one timer of the loop. Work per call is bounded; what is left over runs in the next call.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable
from typing import Any, Final

from mq9.errors import StorageError

log = logging.getLogger("mq9.timers")

RUN_MAX: Final = 2000  # work of one call, so that a million things due at once do not hold the loop

# What a timer calls. It may return how much it did (messages touched), if that is more than a little.
Call = Callable[..., int | None]


class Timer:
    """One pending call."""

    __slots__ = ("args", "call", "heap")

    def __init__(self, heap: TimerHeap, call: Call, args: tuple[Any, ...]) -> None:
        self.heap = heap
        self.call: Call | None = call
        self.args = args

    def cancel(self) -> None:
        """The call will not happen; what it referred to is released now."""
        if self.call is not None:
            self.call = None
            self.args = ()
            self.heap.note_cancelled()


class TimerHeap:
    """See the module. Deadlines are monotonic seconds."""

    __slots__ = ("_cancelled", "_heap", "_sequence", "on_damaged", "on_earlier")

    def __init__(self) -> None:
        self.on_earlier: Callable[[float], None] = _nobody_asks  # called with the deadline when it is the earliest now
        self.on_damaged: Callable[[StorageError], None] | None = None  # hears what a timer could not read
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def at(self, deadline_s: float, call: Call, *args: Any) -> Timer:
        """Call `call(*args)` once `deadline_s` has passed."""
        timer = Timer(self, call, args)
        entry = (deadline_s, next(self._sequence), timer)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self.on_earlier(deadline_s)
        return timer

    def note_cancelled(self) -> None:
        """Keep cancelled entries below half of the heap: a cancelled wait must not cost memory until it would have ended."""
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_deadline_s(self) -> float | None:
        """When `run_due` next has something to do, or None."""
        heap = self._heap
        while heap and heap[0][2].call is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def run_due(self, now_s: float) -> None:
        """Run what is due, the oldest deadline first, until RUN_MAX is done; what is left is due at once again."""
        work = 0
        while work < RUN_MAX:
            deadline_s = self.next_deadline_s()
            if deadline_s is None or deadline_s > now_s:
                return
            timer = heapq.heappop(self._heap)[2]
            call, args = timer.call, timer.args
            timer.call = None
            work += 1
            if call is not None:
                try:
                    work += call(*args) or 0
                except Exception as failure:  # one timer's bug must not keep the others from running
                    if self.on_damaged is not None and isinstance(failure, StorageError):
                        self.on_damaged(failure)
                    else:
                        log.exception("a bug in a timer")


def _nobody_asks(deadline_s: float) -> None:
    """Until the heap has an owner."""
