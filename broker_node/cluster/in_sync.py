"""Asking the meta service for other in-sync sets: what leaders want within one turn is one request, one at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from mq9.errors import Mq9Error
from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from broker_node.cluster.membership import Membership

log = logging.getLogger("mq9.cluster")


class Asker(Protocol):
    """Who wants a change."""

    def isr_answered(self, change: meta.IsrChange, result: meta.SlotResult | None) -> None:
        """What became of it; None: that is not known."""


class InSync:
    """The way of all leaders of one node to the meta service."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._wanted: list[tuple[Asker, meta.IsrChange]] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, asker: Asker, change: meta.IsrChange) -> None:
        """Have `asker.isr_answered` called, later."""
        self._wanted.append((asker, change))
        if self._task is None:
            self._task = asyncio.ensure_future(self._ask_all())

    async def _ask_all(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, []
                results = await self._results([change for _, change in wanted])
                for place, (asker, change) in enumerate(wanted):
                    asker.isr_answered(change, results[place] if results else None)
        except Exception:  # a bug in one leader must not keep the others from asking
            log.exception("a bug in what follows a change of in-sync sets")
        finally:
            self._task = None

    async def _results(self, changes: list[meta.IsrChange]) -> list[meta.SlotResult]:
        """One per change; empty when nobody answered."""
        membership = self._membership
        request = meta.AlterIsrRequest(node=membership.node, incarnation=membership.incarnation, changes=changes)
        try:
            return list((await membership.client.alter_isr(request)).results)
        except Mq9Error as failure:
            log.warning("the meta service did not change in-sync sets: %s", failure)
            return []

    def close(self) -> None:
        """Nobody is answered any more."""
        self._wanted.clear()
        if self._task is not None:
            self._task.cancel()
