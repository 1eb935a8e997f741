"""The commands of clients on a node of a cluster that has no way to other nodes: slots served here, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from broker_node.cluster.requests import PlacedRequest
from broker_node.router.request import Request
from mq9.errors import error
from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from broker_node.cluster.link import Link
    from broker_node.cluster.node import ClusterNode
    from broker_node.mailbox.listing import Listed, Page
    from broker_node.partition import Partition
    from broker_node.router.client import Client
    from broker_node.router.sublist import Subscription

Handler = Callable[["Link", Iterable[Any]], None]  # of all envelopes of one kind in a batch


class Elsewhere(Protocol):
    """The way to slots that are served by other nodes, and of the clients of other nodes to those served here.

    The commands are those of interface.py, for all slots. `handlers`: by the kinds of envelopes it takes.
    """

    handlers: Mapping[str, Handler]
    request: type[Request]  # what a command of a client is made into

    @property
    def waiting_bytes(self) -> int:
        """Of requests that wait for other nodes: above a limit clients are not read."""

    def forward(self, request: PlacedRequest) -> None: ...

    def take_back(self, request: PlacedRequest) -> bool: ...

    def subscribe(self, client: Client, sub: Subscription) -> None: ...

    def unsubscribe(self, sub: Subscription) -> None: ...

    def client_closed(self, client: Client) -> None: ...

    def client_writable(self, client: Client) -> None: ...

    def holds_untaken(self, client: Client) -> bool: ...

    def listed(self, mailbox: dict[str, Any], event: str) -> None: ...

    def list_public(self, page: Page, listed: Listed) -> None: ...

    def link_up(self, link: Link) -> None:
        """A link that we dialed."""

    def link_down(self, link: Link) -> None:
        """A link is gone, whoever dialed it."""

    def view_changed(self, slots: Iterable[meta.Slot]) -> None:
        """These are new or have changed. Those that are to be led here are not served yet."""

    def opened(self, partition: Partition) -> None:
        """A slot is served here from now on."""

    def closing(self, partition: Partition) -> None:
        """It is not served here any more; the partition is closed after this."""

    def stats(self) -> dict[str, int]:
        """For monitoring."""

    def close(self) -> None:
        """Whoever waits is answered."""


class Here:
    """An `Elsewhere` that leads nowhere."""

    handlers: Mapping[str, Handler] = {}
    request: type[Request] = PlacedRequest
    waiting_bytes = 0

    def __init__(self, node: ClusterNode) -> None:
        self._node = node

    def forward(self, request: PlacedRequest) -> None:
        request.refuse(error("UNAVAILABLE", reason="the mailbox is on another broker"))

    def take_back(self, request: PlacedRequest) -> bool:
        return False

    def subscribe(self, client: Client, sub: Subscription) -> None:
        """Nothing is pushed."""

    def unsubscribe(self, sub: Subscription) -> None:
        for partition in self._node.partitions():
            partition.unsubscribe(sub)

    def client_closed(self, client: Client) -> None:
        for partition in list(self._node.partitions()):
            partition.client_closed(client)

    def client_writable(self, client: Client) -> None:
        for partition in list(self._node.partitions()):
            partition.pushing.client_writable(client)

    def holds_untaken(self, client: Client) -> bool:
        return any(partition.pushing.holds_untaken(client) for partition in self._node.partitions())

    def listed(self, mailbox: dict[str, Any], event: str) -> None:
        """There is no way to tell others."""

    def list_public(self, page: Page, listed: Listed) -> None:
        listed(error("UNAVAILABLE", reason="the other brokers are out of reach"), [], b"")

    def link_up(self, link: Link) -> None:
        """Nothing waits for it."""

    def link_down(self, link: Link) -> None:
        """Nothing was sent on it."""

    def view_changed(self, slots: Iterable[meta.Slot]) -> None:
        """Nothing waits for a leader."""

    def opened(self, partition: Partition) -> None:
        """Nothing waits for it."""

    def closing(self, partition: Partition) -> None:
        """Nothing is on its way from it."""

    def stats(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nobody waits."""
