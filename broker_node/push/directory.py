"""The public directory: everyone who subscribes to `$mq9.AI.PUBLIC.LIST` is told of each public mailbox there is, then of
each that comes or goes. It is no mailbox: nothing is stored, and it never expires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Mailbox
from broker_node.permissions import PUBLIC_LIST

if TYPE_CHECKING:
    from broker_node.router.client import Client
    from broker_node.router.sublist import Subscription

_PAGE: Final = 256  # mailboxes told in one go; then others have their turn


class Reader:
    """One subscription and how far it has been told. `after` is a place of Mailboxes.public_page."""

    __slots__ = ("after", "client", "is_told", "sub")

    def __init__(self, client: Client, sub: Subscription) -> None:
        self.client = client
        self.sub = sub
        self.after = b""
        self.is_told = False


class Directory:
    """See the module."""

    def __init__(self, boxes: Mailboxes) -> None:
        self.boxes = boxes
        self.readers: dict[Subscription, Reader] = {}
        boxes.on_listed = self.changed

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

    def changed(self, mailbox: Mailbox, event: str) -> None:
        """A public mailbox was created or has expired."""
        body = _event(mailbox, event)
        for reader in list(self.readers.values()):
            reader.client.receive(reader.sub, PUBLIC_LIST, b"", b"", body)

    def _tell(self, reader: Reader) -> None:
        """Pages, until the end or until the socket is full."""
        while reader.client.is_ready() and reader.sub in self.readers:
            found, following = self.boxes.public_page(reader.after, b"", _PAGE, _PAGE * 64)
            for address in found:
                mailbox = self.boxes.lookup(address)
                if mailbox is not None and reader.sub in self.readers:
                    reader.client.receive(reader.sub, PUBLIC_LIST, b"", b"", _event(mailbox, "created"))
            reader.after = following
            if not following:
                reader.is_told = True
                return


def _event(mailbox: Mailbox, event: str) -> bytes:
    definition = mailbox.definition
    return msgspec.json.encode(
        {
            "event": event,
            "mail_id": mailbox.address.decode("utf-8", "replace"),
            "desc": definition.desc,
            "ttl": definition.ttl_s,
        }
    )
