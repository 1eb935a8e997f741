"""The public mailboxes of a cluster, a page at a time.

Every node that leads slots is asked for the next of its own, in the order of (slot, store, address). What they say is merged up
to where the first of them stopped, so nothing is left out; that place is where the next page begins, whoever leads what then.
A list that lacked a slot would be wrong without saying so: it is refused, and may be asked for again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker_node.cluster.requests import ANY_SLOT, Ask
from broker_node.handlers.mailbox_info import describe
from broker_node.mailbox.listing import Listed, Page
from broker_node.partition import Partition, brief
from mq9.errors import Mq9Error, StorageError, error
from mq9.storage.layout import mailbox_key

if TYPE_CHECKING:
    from broker_node.cluster.forward import Forwarder
    from broker_node.cluster.mailboxes import Node

LIST_PUBLIC: Final = b"$mq9.IN.PUBLIC.LIST"
MISSED_PUBLIC: Final = b"$mq9.IN.PUBLIC.MISSED"
_LOOK_MAX: Final = 20_000  # definitions looked at on one node for one page
_SLOT: Final = struct.Struct(">H")

Place = bytes  # slot u16, store u8, row key: after whom a page goes on; the slot alone: at its beginning


class _Wanted(msgspec.Struct, array_like=True):
    """What a node is asked for: of these slots, which it leads."""

    slots: list[int]
    after: Place
    prefix: bytes
    limit: int
    full: bool


class _Found(msgspec.Struct, array_like=True):
    """What it has. `stopped`: there may be more behind this place; empty: there is not."""

    mailboxes: list[tuple[Place, dict[str, Any]]]
    stopped: Place


_wanted: Final = msgspec.msgpack.Decoder(_Wanted)
_found: Final = msgspec.msgpack.Decoder(_Found)


class PublicLists:
    """See the module."""

    def __init__(self, node: Node, forwarder: Forwarder) -> None:
        self._node = node
        self._forwarder = forwarder

    def ask(self, page: Page, listed: Listed) -> None:
        """One page of the cluster's; `listed` gets it, or why there is none."""
        slots_of: dict[str, list[int]] = {}
        if page.after and len(page.after) < _SLOT.size:
            listed(error("INVALID_REQUEST", reason="after is not a `next` of this command"), [], b"")
            return
        first = _SLOT.unpack_from(page.after)[0] if page.after else 0
        for slot in range(first, self._node.slots):
            slots_of.setdefault(self._node.leader(slot), []).append(slot)
        if "" in slots_of:
            listed(error("UNAVAILABLE", reason="some mailboxes have no broker at the moment"), [], b"")
            return
        gathered = _Gathered(len(slots_of), page.limit, listed)
        for node, slots in slots_of.items():
            wanted = _Wanted(slots, page.after, page.prefix, page.limit, page.full)
            if node == self._node.node:
                self._ask_here(wanted, gathered)
            else:
                body = msgspec.msgpack.encode(wanted)
                self._forwarder.ask_node(node, Ask(ANY_SLOT, LIST_PUBLIC, body, gathered.answered))
        if not slots_of:
            listed(None, [], b"")

    def _ask_here(self, wanted: _Wanted, gathered: _Gathered) -> None:
        try:
            gathered.add(None, self._find(wanted))
        except Mq9Error as failure:
            gathered.add(failure, None)

    def answer(self, body: bytes, answer: Callable[[Mq9Error | None, bytes], None]) -> None:
        """Another node asks for a page of ours. Raises when that cannot be whole."""
        answer(None, msgspec.msgpack.encode(self._find(_wanted.decode(body))))

    def _find(self, wanted: _Wanted) -> _Found:
        found: list[tuple[Place, dict[str, Any]]] = []
        looks = _LOOK_MAX
        for slot in wanted.slots:
            partition = self._node.partition(slot)
            if partition is None:
                raise error("UNAVAILABLE", reason="some mailboxes are on the move between brokers")
            head = _SLOT.pack(slot)
            after = wanted.after[_SLOT.size :] if wanted.after.startswith(head) else b""
            room = wanted.limit - len(found)
            if room <= 0 or looks <= 0:
                return _Found(found, head + after)
            try:
                addresses, following = partition.mailboxes.public_page(after, wanted.prefix, room, looks)
                found += self._shown(partition, head, addresses, full=wanted.full)
            except StorageError as failure:
                raise partition.told(failure) from failure
            looks -= partition.mailboxes.count()
            if following:
                return _Found(found, head + following)
        return _Found(found, b"")

    @staticmethod
    def _shown(partition: Partition, head: bytes, addresses: list[bytes], *, full: bool) -> list[tuple[Place, dict[str, Any]]]:
        shown = []
        for address in addresses:
            mailbox = partition.mailboxes.lookup(address)
            if mailbox is not None:
                place = head + bytes((mailbox.shelf.memory,)) + mailbox_key(address, partition.slot)
                shown.append((place, describe(partition, mailbox) if full else brief(mailbox)))
        return shown


class _Gathered:
    """The answers of all nodes, until the last has come."""

    def __init__(self, left: int, limit: int, listed: Listed) -> None:
        self._left = left
        self._limit = limit
        self._listed = listed
        self._found: list[tuple[Place, dict[str, Any]]] = []
        self._stopped: list[Place] = []

    def answered(self, failure: Mq9Error | None, payload: bytes) -> None:
        self.add(failure, None if failure is not None else _found.decode(payload))

    def add(self, failure: Mq9Error | None, found: _Found | None) -> None:
        if self._left <= 0:
            return  # it is answered already
        if found is None:
            self._left = 0
            self._listed(failure, [], b"")
            return
        self._found += found.mailboxes
        if found.stopped:
            self._stopped.append(found.stopped)
        self._left -= 1
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        horizon = min(self._stopped, default=b"")
        rows = sorted(self._found, key=lambda row: row[0])
        if horizon:
            rows = [row for row in rows if row[0] <= horizon]
        if len(rows) > self._limit:
            rows = rows[: self._limit]
            horizon = rows[-1][0]
        self._listed(None, [shown for _, shown in rows], horizon)
