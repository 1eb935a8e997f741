"""Brokers that break a rule, for tests that must see it broken: python -m tests.cluster.programs RULE, with MQ9_ settings.

lease       serves what it led although its session is over, and does not hear who leads it now
replicas    answers when it has an entry itself, without asking whether its replicas do
patience    when it stops, waits for what it has pushed to be taken for longer than anybody has: no test has to be quick then
"""

from __future__ import annotations

import os
import sys

from broker_node.__main__ import run
from broker_node.cluster import node, replicator
from broker_node.cluster.follower import Follower
from broker_node.cluster.leader import Leader
from broker_node.cluster.membership import Membership
from broker_node.cluster.replicator import Replicator
from mq9.settings import resolve
from mq9.v1 import meta_pb2 as meta


class Endless(Membership):
    """A session that goes on when it is over: the lease holds, and the view stays as it was."""

    _is_deaf = False

    def lease_holds(self) -> bool:
        return self.incarnation > 0

    def _look_at_lease(self) -> None:
        if not self._had_lease and self._lease_until_s > 0:
            self._had_lease = True
            self._first_lease.set()
            self.on_lease(True)

    def _take(self, delta: meta.Delta) -> None:
        mine = next((broker for broker in delta.brokers if broker.id == self.node), None)
        self._is_deaf = self._is_deaf or (mine is not None and self._had_lease and self._is_over(mine))
        if not self._is_deaf:
            super()._take(delta)


class Stubborn(Replicator):
    """Whoever says to lead in a newer epoch is not heard."""

    def _addressed(self, slot: int, epoch: int) -> Follower | None:
        return None if slot in self.leaders else super()._addressed(slot, epoch)


class Hasty(Leader):
    """A leader that takes its replicas' word for granted."""

    def _advance(self) -> None:
        for replica in self.replicas.values():
            replica.acked = max(replica.acked, self.local)
        super()._advance()


def main(rule: str) -> int:
    if rule == "lease":
        setattr(node, "Membership", Endless)  # noqa: B010  # what makes it a control
        setattr(node, "Replicator", Stubborn)  # noqa: B010  # see above
    elif rule == "replicas":
        setattr(replicator, "Leader", Hasty)  # noqa: B010  # see above
    elif rule == "patience":
        setattr(node, "SETTLE_S", 30.0)  # noqa: B010  # see above
    else:
        raise SystemExit(f"no such rule: {rule}")
    return run(resolve({}, os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
