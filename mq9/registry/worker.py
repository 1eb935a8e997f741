"""A thread with a queue: items are handled in groups, and when there are none, a bounded step of something else is done."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger("mq9.registry")

Item = TypeVar("Item")


class Worker(Generic[Item]):
    """`handle` gets at most `group_max` items, in order; `failed` gets those of a group that raised.

    `idle` returns the seconds to wait before it wants to be called again, 0 for at once, None for after the next item.
    The thread starts with the first item. Everything but `handle`, `failed` and `idle` runs on the caller's thread.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Item]], None],
        failed: Callable[[list[Item]], None],
        *,
        group_max: int,
        idle: Callable[[], float | None] | None = None,
    ) -> None:
        self._name = name
        self._handle = handle
        self._failed = failed
        self._idle = idle
        self._group_max = group_max
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._woken = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Items waiting."""
        return len(self._items)

    def submit(self, item: Item) -> None:
        """Queue an item. After `close` it fails at once."""
        with self._changed:
            if not self._closed:
                self._items.append(item)
                self._begin()
                self._changed.notify()
                return
        self._failed([item])

    def wake(self) -> None:
        """Have `idle` called soon."""
        with self._changed:
            if not self._closed:
                self._woken = True
                self._begin()
                self._changed.notify()

    def close(self) -> None:
        """Let the group under way finish, fail the rest, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        rest = list(self._items)
        self._items.clear()
        if rest:
            self._failed(rest)

    def _begin(self) -> None:
        if self._thread is None:
            # A daemon: a process that ends without `close` (a crash elsewhere) must not hang on a model.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        wait_s: float | None = 0.0
        while True:
            group = self._take(wait_s)
            if group is None:
                return
            wait_s = 0.0
            if group:
                self._do(group)
            elif self._idle is not None:
                wait_s = self._rest(self._idle)
            else:
                wait_s = None

    def _take(self, wait_s: float | None) -> list[Item] | None:
        """The next group; empty when it is time for `idle`; None when closed."""
        with self._changed:
            if not self._items and not self._closed and not self._woken and wait_s != 0:
                self._changed.wait(wait_s)
            self._woken = False
            if self._closed:
                return None
            return [self._items.popleft() for _ in range(min(len(self._items), self._group_max))]

    def _do(self, group: list[Item]) -> None:
        try:
            self._handle(group)
        except Exception:  # a bug must reach those who wait, and must not end the thread for all who come later
            log.exception("a bug in %s", self._name)
            self._failed(group)

    def _rest(self, idle: Callable[[], float | None]) -> float | None:
        try:
            return idle()
        except Exception:  # a bug in background work must not end the thread that registrations need
            log.exception("a bug in %s while idle", self._name)
            return None
