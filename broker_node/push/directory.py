"""The public directory: everyone who subscribes to `$mq9.AI.PUBLIC.LIST` is told of each public mailbox there is, then of
each that comes or goes. It is no mailbox: nothing is stored, and it never expires."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker_node.mailbox.listing import Listed, Page
from broker_node.permissions import PUBLIC_LIST
from mq9.errors import Mq9Error

if TYPE_CHECKING:
    from broker_node.router.client import Client
    from broker_node.router.sublist import Subscription

_PAGE: Final = 256  # mailboxes told in one go; then others have their turn


class Reader:
    """One subscription and how far it has been told. `after` is where its next page begins."""

    __slots__ = ("after", "client", "is_asking", "is_telling", "is_told", "sub")

    def __init__(self, client: Client, sub: Subscription) -> None:
        self.client = client
        self.sub = sub
        self.after = b""
        self.is_told = False
        self.is_asking = False  # for the next page
        self.is_telling = False  # in `_tell`


class Directory:
    """See the module."""

    def __init__(self, list_public: Callable[[Page, Listed], None]) -> None:
        self.list_public = list_public
        self.readers: dict[Subscription, Reader] = {}

    def subscribe(self, client: Client, sub: Subscription) -> None:
        """Tell a new reader what there is."""
        self.readers[sub] = reader = Reader(client, sub)
        self._tell(reader)

    def unsubscribe(self, sub: Subscription) -> None:
        """It wants to know no more."""
        self.readers.pop(sub, None)

    def client_writable(self, client: Client) -> None:
        """Its socket took what it was told: go on."""
        for reader in list(self.readers.values()):
            if reader.client is client and not reader.is_told:
                self._tell(reader)

    def changed(self, mailbox: dict[str, Any], event: str) -> None:
        """A public mailbox was created or has expired. `mailbox` as a page shows it."""
        body = _event(mailbox, event)
        for reader in list(self.readers.values()):
            reader.client.receive(reader.sub, PUBLIC_LIST, b"", b"", body)

    def tick(self) -> None:
        """A few times a second: whom nobody could answer asks again."""
        for reader in list(self.readers.values()):
            if not reader.is_told:
                self._tell(reader)

    def _tell(self, reader: Reader) -> None:
        """Pages, until the end or until the socket is full."""
        reader.is_telling = True
        while not (reader.is_told or reader.is_asking) and reader.client.is_ready() and reader.sub in self.readers:
            after = reader.after
            reader.is_asking = True
            self.list_public(Page(after, b"", _PAGE, full=False), partial(self._listed, reader))
            if reader.after == after:
                break  # the answer is still to come, or it was that there is none now
        reader.is_telling = False

    def _listed(self, reader: Reader, failure: Mq9Error | None, found: list[dict[str, Any]], following: bytes) -> None:
        reader.is_asking = False
        if failure is not None:
            return  # `tick` asks again
        for mailbox in found:
            if reader.sub in self.readers:
                reader.client.receive(reader.sub, PUBLIC_LIST, b"", b"", _event(mailbox, "created"))
        reader.after = following
        reader.is_told = not following
        if not reader.is_telling:
            self._tell(reader)


def _event(mailbox: dict[str, Any], event: str) -> bytes:
    return msgspec.json.encode(
        {"event": event, "mail_id": mailbox["mail_address"], "desc": mailbox["desc"], "ttl": mailbox["ttl"]}
    )
