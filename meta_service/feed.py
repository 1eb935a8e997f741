"""The state as the API sees it, and everybody who watches it. Lives on the API's event loop.

The Raft thread posts each change in order; this keeps the newest brokers, slots and configuration. What a watcher needs is
found by revision: every row carries the revision it last changed at, so any revision a watcher names can be continued from,
unless a broker was forgotten since, which leaves no row, or it is another cluster's.
"""

from __future__ import annotations

import asyncio
from typing import Self

from meta_service.rules import View
from meta_service.state import Changed
from mq9.v1 import meta_pb2 as meta


class Feed:
    """A copy of the state that is as new as what was posted; `changed` wakes whoever waits for more."""

    def __init__(self, everything: Changed) -> None:
        self.view = View()
        self.rev = 0
        self.changed_rev = 0  # the last one at which there was something to see
        self._waiters: set[asyncio.Event] = set()
        self.take(everything)

    def take(self, change: Changed) -> None:
        """One change, in the order of revisions; one without anything in it says how far the state has come."""
        if change.full:
            self.view = View()
        if change.config is not None:
            self.view.config = change.config
        self.view.brokers.update((broker.id, broker) for broker in change.brokers)
        self.view.slots.update((slot.slot, slot) for slot in change.slots)
        for name in change.forgotten:
            self.view.brokers.pop(name, None)
        self.progress(change.rev)
        if change.full:
            self.changed_rev = self._newest()  # not the revision of the state, which barriers move too
        elif change.config is not None or change.brokers or change.slots or change.forgotten:
            self.changed_rev = change.rev
        else:
            return
        for waiter in self._waiters:
            waiter.set()

    def _newest(self) -> int:
        """When any row of the view last changed."""
        view = self.view
        brokers = max((broker.mod_rev for broker in view.brokers.values()), default=0)
        slots = max((slot.mod_rev for slot in view.slots.values()), default=0)
        return max(view.config.removed_rev, view.config.mod_rev, brokers, slots)

    def progress(self, rev: int) -> None:
        """Nothing else changed up to here."""
        self.rev = max(self.rev, rev)

    def since(self, rev: int, cluster_id: bytes) -> meta.Delta:
        """Everything a watcher that has seen `rev` of this cluster has not."""
        config = self.view.config
        full = rev == 0 or rev < config.removed_rev or rev > self.rev or cluster_id != config.cluster_id
        after = 0 if full else rev
        delta = meta.Delta(rev=self.rev, full=full)
        if full or config.mod_rev > after:
            delta.config.CopyFrom(config)
        delta.brokers.extend(broker for broker in self.view.brokers.values() if full or broker.mod_rev > after)
        delta.slots.extend(slot for slot in self.view.slots.values() if full or slot.mod_rev > after)
        return delta

    def watch(self) -> Watcher:
        """Begin to wait for changes."""
        return Watcher(self._waiters)


class Watcher:
    """Waits for changes; use it as a context."""

    def __init__(self, waiters: set[asyncio.Event]) -> None:
        self._waiters = waiters
        self._event = asyncio.Event()

    def __enter__(self) -> Self:
        self._waiters.add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters.discard(self._event)

    async def wait(self, timeout_s: float) -> None:
        """Return when something changed since the last wait returned, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()
