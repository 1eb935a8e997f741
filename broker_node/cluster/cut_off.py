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
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from broker_node.cluster.membership import Membership
    from broker_node.cluster.standings import Standings
    from mq9.clock import Clock

log = logging.getLogger("mq9.cluster")

# How many leases long. With the one before it is over that makes three since the last answer of the meta service: the session
# has ended by then (1.6 leases by default), and others have been chosen. An election of the meta service is over sooner.
PATIENCE_LEASES: Final = 2.0


class CutOff:
    """See the module. `on_change` hears whether clients should be elsewhere."""

    def __init__(self, membership: Membership, standings: Standings, clock: Clock) -> None:
        self._membership = membership
        self._standings = standings
        self._clock = clock
        self._since_s: float | None = None
        self.is_cut_off = False
        self.on_change: Callable[[bool], None] = lambda _: None

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
        heard = self._standings.heard
        near = {link.node for link in heard} & others
        has_lease = any(standing.lease for standing in heard.values())
        return bool(others) and (has_lease or 2 * (1 + len(near)) <= 1 + len(others))

    def _become(self, cut_off: bool) -> None:
        if cut_off is self.is_cut_off:
            return
        self.is_cut_off = cut_off
        if cut_off:
            log.warning("cut off: there is no lease here, and other brokers may serve")
        else:
            log.info("not cut off any more")
        self.on_change(cut_off)
