"""Whether this node is cut off while others serve: then its clients are better off with them (docs/decisions/0010).

A node without a lease serves nothing. If that is so because the meta service as a whole is gone, no other node is better, and
clients stay where they are: what they say to each other through core NATS still works. So nodes tell each other whether their
leases hold, and a node is cut off when it has had no lease for a while during which all the time

- a node that it hears said that its lease holds, or
- it, and those it hears, were no more than half of the nodes that live by its view: the meta service may be with the rest.

It is cut off no longer when its lease holds again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from mq9.v1 import meta_pb2 as meta
from mq9.v1.peer_pb2 import Standing

if TYPE_CHECKING:
    from broker_node.cluster.link import Link
    from broker_node.cluster.membership import Membership
    from mq9.clock import Clock

log = logging.getLogger("mq9.cluster")

# How many leases long. With the one before it is over that makes three since the last answer of the meta service: the session
# has ended by then (1.6 leases by default), and others have been chosen. An election of the meta service is over sooner.
PATIENCE_LEASES: Final = 2.0


class CutOff:
    """See the module. `on_change` hears whether clients should be elsewhere."""

    def __init__(self, membership: Membership, clock: Clock) -> None:
        self._membership = membership
        self._clock = clock
        self._heard: dict[Link, bool] = {}  # whether who is at the other end said there that its lease holds
        self._since_s: float | None = None
        self.is_cut_off = False
        self.on_change: Callable[[bool], None] = lambda _: None

    def link_up(self, link: Link) -> None:
        """A stream has begun, whoever opened it."""
        self._heard[link] = False
        self._say(link)

    def link_down(self, link: Link) -> None:
        self._heard.pop(link, None)

    def on_standings(self, link: Link, standings: Iterable[Standing]) -> None:
        """What a node says of its lease."""
        for standing in standings:
            if link in self._heard:
                self._heard[link] = standing.lease

    def lease_changed(self, holds: bool) -> None:
        """Our lease has ended, or holds again."""
        for link in self._heard:
            self._say(link)
        self.look()

    def _say(self, link: Link) -> None:
        link.send("standings", Standing(lease=self._membership.lease_holds()))

    def look(self) -> None:
        """Every now and then, and when our lease has changed."""
        if self._membership.lease_holds():
            self._since_s = None
            self._become(False)
        elif not self._others_may_serve():
            self._since_s = None  # who is cut off already stays it: clients that have moved do not come back for this
        else:
            now_s = self._clock.monotonic_s()
            if self._since_s is None:
                self._since_s = now_s
            if now_s - self._since_s >= PATIENCE_LEASES * self._membership.lease_s:
                self._become(True)

    def _others_may_serve(self) -> bool:
        """Whether it is plausible, by what this node hears."""
        node, brokers = self._membership.node, self._membership.brokers.values()
        others = {broker.id for broker in brokers if broker.state != meta.FENCED and broker.id != node}
        heard = {link.node for link in self._heard} & others
        return bool(others) and (any(self._heard.values()) or 2 * (1 + len(heard)) <= 1 + len(others))

    def _become(self, cut_off: bool) -> None:
        if cut_off is self.is_cut_off:
            return
        self.is_cut_off = cut_off
        if cut_off:
            log.warning("cut off: there is no lease here, and other brokers may serve")
        else:
            log.info("not cut off any more")
        self.on_change(cut_off)
