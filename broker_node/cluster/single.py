"""No cluster: one partition holds every slot."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from broker_node.cluster.requests import PlacedRequest
from broker_node.mailbox.listing import Listed, Page
from broker_node.partition import Host, Partition
from broker_node.router.client import Client
from broker_node.router.request import Request
from broker_node.router.sublist import Subscription
from mq9.errors import Mq9Error
from mq9.limits import SLOTS
from mq9.registry.registry import Registry
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Store


class SingleNode:
    """A `Cluster` of one that is in none."""

    def __init__(self, host: Host, store: Store, commit: GroupCommit) -> None:
        self.whole = Partition(host, store, commit)
        self.slots = SLOTS
        self.request: type[Request] = Request
        self._commit = commit

    @property
    def staged_bytes(self) -> int:
        return self._commit.staged_bytes

    @property
    def is_crowded(self) -> bool:
        return False

    def partition(self, slot: int) -> Partition:
        return self.whole

    def partitions(self) -> Collection[Partition]:
        return (self.whole,)

    def forward(self, request: PlacedRequest) -> None:
        raise AssertionError("every slot is here")

    def take_back(self, request: PlacedRequest) -> bool:
        return False

    def subscribe(self, client: Client, sub: Subscription) -> None:
        self.whole.subscribe(client, sub)

    def unsubscribe(self, sub: Subscription) -> None:
        self.whole.unsubscribe(sub)

    def client_closed(self, client: Client) -> None:
        self.whole.client_closed(client)

    def client_writable(self, client: Client) -> None:
        self.whole.pushing.client_writable(client)

    def holds_untaken(self, client: Client) -> bool:
        return self.whole.pushing.holds_untaken(client)

    def listed(self, mailbox: dict[str, Any], event: str) -> None:
        """There is nobody else to tell."""

    def list_public(self, page: Page, listed: Listed) -> None:
        try:
            found, following = self.whole.list_public(page)
        except Mq9Error as failure:
            listed(failure, [], b"")
        else:
            listed(None, found, following)

    def agents(self, registry: Registry) -> Registry:
        return registry

    def stats(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.whole.close()
