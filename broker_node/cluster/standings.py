"""What brokers tell each other of themselves: whether the lease holds, and how far one has come that stops.

It is said on every stream when that begins, and when it changes. What is said later on a stream was true later, and everything
that was sent before it has arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from mq9.v1.peer_pb2 import Standing

if TYPE_CHECKING:
    from broker_node.cluster.link import Link
    from mq9.clock import Clock

TOGETHER_S: Final = 5.0  # what brokers that stop as well get to come as far
LOOK_S: Final = 0.01


class Standings:
    """See the module. `heard` is the newest of each stream."""

    def __init__(self, lease_holds: Callable[[], bool], clock: Clock) -> None:
        self._lease_holds = lease_holds
        self._clock = clock
        self._stage = Standing.SERVES
        self.heard: dict[Link, Standing] = {}

    def link_up(self, link: Link) -> None:
        """A stream has begun, whoever opened it."""
        self.heard[link] = Standing()
        self._say(link)

    def link_down(self, link: Link) -> None:
        self.heard.pop(link, None)

    def on_standings(self, link: Link, standings: Iterable[Standing]) -> None:
        """What a node says of itself."""
        for standing in standings:
            if link in self.heard:
                self.heard[link] = standing

    def tell(self) -> None:
        """Our lease, or our stage, has changed."""
        for link in self.heard:
            self._say(link)

    def _say(self, link: Link) -> None:
        link.send("standings", Standing(lease=self._lease_holds(), stage=self._stage))

    # --- Stopping together ----------------------------------------------------------------------------------------

    def reach(self, stage: Standing.Stage) -> None:
        """This node stops, and has come so far."""
        self._stage = stage
        self.tell()

    async def all_reach(self, stage: Standing.Stage) -> None:
        """Return when every broker that stops as well has come as far, or is gone, or has had its time."""
        until_s = self._clock.monotonic_s() + TOGETHER_S
        while any(Standing.SERVES < each.stage < stage for each in self.heard.values()):
            if self._clock.monotonic_s() >= until_s:
                return
            await asyncio.sleep(LOOK_S)
