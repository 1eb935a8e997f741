"""Core NATS on a node of a cluster: local subscribers first, then every other node that has some.

The router of a single node, with the same meaning of echo, queue groups and the number of receivers. One node decides for the
whole cluster who of a queue group gets a message: the one it is published on.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from broker_node.cluster.interest import Interest
from broker_node.loop_hooks import LoopHooks
from broker_node.router.core import INVALID_SUBJECT, CoreRouter
from broker_node.router.sublist import NOBODY, Receiver, Subscription
from mq9.v1.peer_pb2 import CoreMessage


class ClusterRouter(CoreRouter):
    """The subscriptions of this node, and, in `interest`, those of its peers."""

    __slots__ = ("interest",)

    def __init__(self, hooks: LoopHooks, random_unit: Callable[[], float] = random.random) -> None:
        """`random_unit` gives numbers in [0, 1): it spreads messages over the members of a queue group."""
        super().__init__(random_unit)
        self.interest = Interest(self, hooks, random_unit)

    def subscribe(self, sub: Subscription) -> None:
        self.sublist.add(sub)
        self.interest.local_changed(sub.subject, sub.queue, 1)

    def unsubscribe(self, sub: Subscription) -> None:
        if self.sublist.remove(sub):
            self.interest.local_changed(sub.subject, sub.queue, -1)

    def deliver(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> int:
        """Publish as the broker. Returns the number of receivers, a node with plain subscriptions as one."""
        return max(0, self.publish(subject, reply, header, payload, None))

    def publish(self, subject: bytes, reply: bytes, header: bytes, payload: bytes, not_to: Receiver | None) -> int:
        """Hand a message to everyone it is for in the cluster, except to `not_to` (a publisher that wants no echo).

        Returns the number of receivers, a node with plain subscriptions as one, or INVALID_SUBJECT.
        """
        found = self.sublist.match(subject)
        if found is None:
            return INVALID_SUBJECT
        far = self.interest.match(subject) or NOBODY
        count = 0
        for sub in found.plain:
            if sub.client is not not_to:
                sub.client.receive(sub, subject, reply, header, payload)
                count += 1
        served: list[bytes] = []
        for members in found.queues:
            chosen = self._choose(members, not_to)
            if chosen is not None:
                chosen.client.receive(chosen, subject, reply, header, payload)
                served.append(chosen.queue)
        count += len(served)
        if far is NOBODY:
            return count
        message = CoreMessage(subject=subject, reply_to=reply, header=header, payload=payload)
        return count + self.interest.spread(far, served, message)

    def deliver_here(self, message: CoreMessage) -> None:
        """Hand a message of a peer to this node's subscribers. A queue group that has no member left has lost it, as it
        would a message that was on the way to a client."""
        found = self.sublist.match(message.subject)
        if found is None or found is NOBODY:
            return
        subject, reply, header, payload = message.subject, message.reply_to, message.header, message.payload
        if message.plain:
            for sub in found.plain:
                sub.client.receive(sub, subject, reply, header, payload)
        wanted = message.queues
        if not wanted:
            return
        for members in found.queues:
            if members[0].queue in wanted:
                chosen = members[int(self._random() * len(members))]
                chosen.client.receive(chosen, subject, reply, header, payload)
