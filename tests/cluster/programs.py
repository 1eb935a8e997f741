"""Brokers that break a rule, for tests that must see it broken: python -m tests.cluster.programs RULE, with MQ9_ settings.

lease       serves what it led although its lease is over and others may lead it
replicas    answers when it has an entry itself, without asking whether its replicas do
"""

from __future__ import annotations

import os
import sys

from broker_node.__main__ import run
from broker_node.cluster import node, replicator
from broker_node.cluster.leader import Leader
from broker_node.cluster.membership import Membership
from mq9.settings import resolve


class Endless(Membership):
    """A session whose lease holds from when it was first given."""

    def lease_holds(self) -> bool:
        return bool(self.incarnation)


class Hasty(Leader):
    """A leader that takes its replicas' word for granted."""

    def _advance(self) -> None:
        for replica in self.replicas.values():
            replica.acked = max(replica.acked, self.local)
        super()._advance()


def main(rule: str) -> int:
    if rule == "lease":
        setattr(node, "Membership", Endless)  # noqa: B010  # what makes it a control
    elif rule == "replicas":
        setattr(replicator, "Leader", Hasty)  # noqa: B010  # see above
    else:
        raise SystemExit(f"no such rule: {rule}")
    return run(resolve({}, os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
