"""The public directory: everyone who subscribes to `$mq9.AI.PUBLIC.LIST` is told of each public mailbox there is, then of
each that comes or goes. It is no mailbox: nothing is stored, and it never expires.

In a cluster what other brokers say may be lost with a link, or with a leader. Then `look_again` is called, and readers are
read the whole list once more: each remembers what it was told, hears of what it did not know, and at the end that what the
list no longer has is over. What there is no room to remember (PUBLIC_TOLD_MAX) is told again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from broker_node.mailbox.listing import Listed, Page
from broker_node.permissions import PUBLIC_LIST
from mq9.errors import Mq9Error
from mq9.limits import PUBLIC_TOLD_MAX

if TYPE_CHECKING:
    from broker_node.router.client import Client
    from broker_node.router.sublist import Subscription

PAGE: Final = 256  # mailboxes told in one go; then others have their turn


class _Told(NamedTuple):
    """What a reader was told of a mailbox, and which reading of the list had it last. Strings are shared by the readers."""

    desc: str
    ttl: int
    reading: int
    is_over: bool = False  # it expired while this reading went on: a page on its way may still have it


class Reader:
    """One subscription and how far it has been told. `after` is where its next page begins."""

    __slots__ = ("after", "client", "is_asking", "is_stale", "is_telling", "is_told", "reading", "sub", "told", "vanished")

    def __init__(self, client: Client, sub: Subscription, *, remembers: bool) -> None:
        self.client = client
        self.sub = sub
        self.after = b""
        self.is_told = False
        self.is_stale = False  # something may have been missed since this reading began
        self.is_asking = False  # for the next page
        self.is_telling = False  # in `_tell`
        self.reading = 1
        self.told: dict[str, _Told] | None = {} if remembers else None
        self.vanished: list[str] = []  # not in the list that was read last, to be looked at

    @property
    def is_idle(self) -> bool:
        return self.is_told and not self.vanished

    def say(self, mailbox: dict[str, Any], event: str) -> None:
        self.client.receive(self.sub, PUBLIC_LIST, b"", b"", _event(mailbox, event))


class Directory:
    """See the module. Without `can_miss` every event arrives, and there is nothing to remember."""

    def __init__(self, list_public: Callable[[Page, Listed], None], *, can_miss: bool) -> None:
        self.list_public = list_public
        self.can_miss = can_miss
        self.readers: dict[Subscription, Reader] = {}
        self.remembered = 0  # names, by all readers together
        self.remembered_max = PUBLIC_TOLD_MAX

    def subscribe(self, client: Client, sub: Subscription) -> None:
        """Tell a new reader what there is."""
        self.readers[sub] = reader = Reader(client, sub, remembers=self.can_miss)
        self._tell(reader)

    def unsubscribe(self, sub: Subscription) -> None:
        """It wants to know no more."""
        reader = self.readers.pop(sub, None)
        if reader is not None:
            self._forget(reader)

    def client_writable(self, client: Client) -> None:
        """Its socket took what it was told: go on."""
        for reader in list(self.readers.values()):
            if reader.client is client:
                self._tell(reader)

    def changed(self, mailbox: dict[str, Any], event: str) -> None:
        """A public mailbox was created or has expired. `mailbox` as a page shows it."""
        for reader in list(self.readers.values()):
            if reader.told is None:
                reader.say(mailbox, event)
            elif event == "created":
                self._there(reader, mailbox)
            else:
                self._over(reader, mailbox)

    def look_again(self) -> None:
        """Events may have been missed: at the next tick all readers are read the list again."""
        for reader in self.readers.values():
            reader.is_stale = True

    def tick(self) -> None:
        """A few times a second: whom nobody could answer asks again, and who may have missed something looks."""
        for reader in list(self.readers.values()):
            if reader.is_stale and reader.is_idle:
                reader.is_stale = reader.is_told = False
                reader.reading += 1
            self._tell(reader)

    def _tell(self, reader: Reader) -> None:
        """Pages, until the end or until the socket is full."""
        if reader.is_telling:
            return
        reader.is_telling = True
        while not (reader.is_idle or reader.is_asking) and reader.client.is_ready() and reader.sub in self.readers:
            if reader.is_told:
                self._sweep(reader)
                continue
            after = reader.after
            reader.is_asking = True
            self.list_public(Page(after, b"", PAGE, full=False), partial(self._listed, reader))
            if reader.after == after and not reader.is_told:
                break  # the answer is still to come, or it was that there is none now
        reader.is_telling = False

    def _listed(self, reader: Reader, failure: Mq9Error | None, found: list[dict[str, Any]], following: bytes) -> None:
        reader.is_asking = False
        if failure is not None:
            return  # `tick` asks again
        for mailbox in found:
            if reader.sub not in self.readers:
                return
            if reader.told is None:
                reader.say(mailbox, "created")
            else:
                self._there(reader, mailbox, is_news=False)
        reader.after = following
        reader.is_told = not following
        if reader.is_told and reader.told is not None:
            reader.vanished = [name for name, known in reader.told.items() if known.is_over or known.reading != reader.reading]
        self._tell(reader)

    # --- What a reader remembers --------------------------------------------------------------------------------

    def _there(self, reader: Reader, mailbox: dict[str, Any], *, is_news: bool = True) -> None:
        """A mailbox is in the list, or was just created."""
        assert reader.told is not None
        name, desc, ttl = mailbox["mail_address"], mailbox["desc"], mailbox["ttl"]
        known = reader.told.get(name)
        if known is not None and known.is_over:
            if not is_news:
                return  # a page that is older than the event
        elif known is not None:
            if (known.desc, known.ttl) == (desc, ttl):
                reader.told[name] = known._replace(reading=reader.reading)
                return
            reader.say({"mail_address": name, "desc": known.desc, "ttl": known.ttl}, "expired")  # and was made anew
        reader.say(mailbox, "created")
        self._remember(reader, name, _Told(_shared(desc), ttl, reader.reading))

    def _over(self, reader: Reader, mailbox: dict[str, Any]) -> None:
        """A mailbox has expired."""
        assert reader.told is not None
        name = mailbox["mail_address"]
        known = reader.told.get(name)
        if known is not None and not known.is_over:
            reader.say(mailbox, "expired")
        if not reader.is_told:
            self._remember(reader, name, _Told("", 0, reader.reading, is_over=True))
        elif known is not None:
            self._drop(reader, name)

    def _sweep(self, reader: Reader) -> None:
        """The list was read to its end: a page of what it does not have any more."""
        names, reader.vanished = reader.vanished[:PAGE], reader.vanished[PAGE:]
        for name in names:
            known = reader.told.get(name) if reader.told is not None else None
            if known is None or (known.reading == reader.reading and not known.is_over):
                continue  # there was an event meanwhile
            self._drop(reader, name)
            if not known.is_over:
                reader.say({"mail_address": name, "desc": known.desc, "ttl": known.ttl}, "expired")

    def _remember(self, reader: Reader, name: str, told: _Told) -> None:
        assert reader.told is not None
        if name not in reader.told:
            if self.remembered >= self.remembered_max:
                self._forget(reader)
                return
            self.remembered += 1
        reader.told[_shared(name)] = told

    def _drop(self, reader: Reader, name: str) -> None:
        if reader.told is not None and reader.told.pop(name, None) is not None:
            self.remembered -= 1

    def _forget(self, reader: Reader) -> None:
        """From here on it is told what is said, known or not."""
        self.remembered -= len(reader.told or ())
        reader.told = None
        reader.vanished = []


def _shared(text: str) -> str:
    """The same string for every reader: what many remember is in memory once, and gone with the last of them."""
    return sys.intern(text)


def _event(mailbox: dict[str, Any], event: str) -> bytes:
    return msgspec.json.encode(
        {"event": event, "mail_id": mailbox["mail_address"], "desc": mailbox["desc"], "ttl": mailbox["ttl"]}
    )
