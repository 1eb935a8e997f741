"""What a node of a cluster needs of its way to other nodes, and of theirs to it; cluster/mailboxes.py is both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from broker_node.cluster.requests import PlacedRequest
from broker_node.router.request import Request
from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from broker_node.cluster.link import Link
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
