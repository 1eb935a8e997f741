"""What the broker asks of the cluster it is in, or of its being in none."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from broker_node.cluster.requests import PlacedRequest
from broker_node.mailbox.listing import Listed, Page
from broker_node.partition import Partition
from broker_node.router.client import Client
from broker_node.router.request import Request
from broker_node.router.sublist import Subscription
from mq9.registry.discovery import Answer
from mq9.registry.registry import Done, Registry


class Agents(Protocol):
    """The commands about agents, as mq9/registry/registry.py has them."""

    def register(self, payload: bytes, done: Done) -> None: ...

    def report(self, payload: bytes, done: Done) -> None: ...

    def unregister(self, payload: bytes, done: Done) -> None: ...

    def discover(self, payload: bytes, owner: int, done: Answer) -> None: ...


class Cluster(Protocol):
    """Which slots are served here, and the way to the others."""

    @property
    def whole(self) -> Partition | None:
        """Outside a cluster: the one partition, of all slots."""

    @property
    def slots(self) -> int:
        """How many there are."""

    @property
    def request(self) -> type[Request]:
        """What a command of a client is made into."""

    @property
    def staged_bytes(self) -> int:
        """Of all partitions here: what is not durable, or not replicated, yet."""

    @property
    def is_crowded(self) -> bool:
        """More is on its way to another node than should be: clients are not read until it is less."""

    def partition(self, slot: int) -> Partition | None:
        """The partition of a slot that is served here now."""

    def partitions(self) -> Collection[Partition]:
        """All that are served here."""

    def forward(self, request: PlacedRequest) -> None:
        """Have a request carried out where its slot is served; what goes wrong is answered."""

    def take_back(self, request: PlacedRequest) -> bool:
        """Whether a request failed only because its slot moved away under it, and was sent after it."""

    def subscribe(self, client: Client, sub: Subscription) -> None:
        """A client subscribed to a mailbox, wherever that is."""

    def unsubscribe(self, sub: Subscription) -> None:
        """It does not want that any more."""

    def client_closed(self, client: Client) -> None:
        """A connection is gone: what it held anywhere is free."""

    def client_writable(self, client: Client) -> None:
        """The socket of a client has taken what waited."""

    def holds_untaken(self, client: Client) -> bool:
        """Whether the client was pushed messages that its socket has not taken, and that go to others if it closes."""

    def listed(self, mailbox: dict[str, Any], event: str) -> None:
        """A public mailbox came or went here: other nodes have readers too."""

    def list_public(self, page: Page, listed: Listed) -> None:
        """The public mailboxes there are, wherever they are."""

    def agents(self, registry: Registry) -> Agents:
        """What takes the commands about agents: the registry itself, or what asks those of other nodes too."""

    def stats(self) -> dict[str, Any]:
        """For monitoring; empty outside a cluster."""

    def close(self) -> None:
        """Close the partitions; whoever waits is answered."""
