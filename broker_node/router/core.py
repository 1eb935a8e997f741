"""Core NATS on one node: who gets a published message.

Every plain subscription that matches, and one member of every queue group. A message is handed over at once, in the
order it was published; nothing is kept. Replies of mq9 commands take the same road through `deliver`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from broker_node.router.sublist import Receiver, Sublist, Subscription

INVALID_SUBJECT = -1  # what `publish` answers for a subject that nothing can be published to


class CoreRouter:
    """The subscriptions of the broker and the delivery to them."""

    __slots__ = ("_random", "sublist")

    def __init__(self, random_unit: Callable[[], float] = random.random) -> None:
        """`random_unit` gives numbers in [0, 1): it spreads messages over the members of a queue group."""
        self.sublist = Sublist()
        self._random = random_unit

    def subscribe(self, sub: Subscription) -> None:
        self.sublist.add(sub)

    def unsubscribe(self, sub: Subscription) -> None:
        self.sublist.remove(sub)

    def deliver(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> int:
        """Publish as the broker. Returns the number of receivers."""
        found = self.sublist.match(subject)
        if found is None:
            return 0
        for sub in found.plain:
            sub.client.receive(sub, subject, reply, header, payload)
        if not found.queues:
            return len(found.plain)
        for members in found.queues:
            chosen = members[int(self._random() * len(members))]
            chosen.client.receive(chosen, subject, reply, header, payload)
        return len(found.plain) + len(found.queues)

    def publish(self, subject: bytes, reply: bytes, header: bytes, payload: bytes, not_to: Receiver | None) -> int:
        """Hand a message to everyone it is for, except to `not_to` (a publisher that wants no echo).

        Returns the number of receivers, or INVALID_SUBJECT.
        """
        found = self.sublist.match(subject)
        if found is None:
            return INVALID_SUBJECT
        count = 0
        for sub in found.plain:
            if sub.client is not not_to:
                sub.client.receive(sub, subject, reply, header, payload)
                count += 1
        for members in found.queues:
            chosen = self._choose(members, not_to)
            if chosen is not None:
                chosen.client.receive(chosen, subject, reply, header, payload)
                count += 1
        return count

    def answer_no_responders(self, client: Receiver, reply: bytes, header: bytes) -> None:
        """Tell `client`, on its own subscription to `reply`, that its request reached nobody."""
        found = self.sublist.match(reply)
        if found is None:
            return
        for sub in found.plain:
            if sub.client is client:
                client.receive(sub, reply, b"", header, b"")
                return

    def _choose(self, members: tuple[Subscription, ...], not_to: Receiver | None) -> Subscription | None:
        """One member by lot, and if it must not be asked the next that may."""
        count = len(members)
        first = int(self._random() * count)
        if members[first].client is not not_to:
            return members[first]
        return next((sub for sub in (*members[first:], *members[:first]) if sub.client is not not_to), None)
