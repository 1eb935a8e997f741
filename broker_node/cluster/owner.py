"""Requests of clients of other nodes, carried out here because their slot is served here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, count
from typing import TYPE_CHECKING, Final

from broker_node.cluster.envelopes import DONE, MOVED, NOT_LEADER, ROW_BYTES, Forward, Reply, read_forwards
from broker_node.cluster.requests import ANY_SLOT, Ask, Nobody, told
from broker_node.router.dispatch import Command, Placement, resolve
from broker_node.router.request import Request
from mq9.errors import Mq9Error, error
from mq9.limits import ROUTE_CACHE_ENTRIES_MAX
from mq9.v1 import peer_pb2 as peer

if TYPE_CHECKING:
    from broker_node.broker import Broker
    from broker_node.cluster.forward import PeerLink
    from broker_node.cluster.mailboxes import Node
    from broker_node.partition import Partition

FIRST_REMOTE_ID: Final = 1 << 48  # of clients of other nodes; those of this node are numbered from 1
remote_ids = count(FIRST_REMOTE_ID)

# What nodes ask each other: gets the question and whom to give an answer to, or raises.
Answer = Callable[[Mq9Error | None, bytes], None]
Internal = Callable[[bytes, Answer], None]


class RemoteClient(Nobody):
    """A client of another node, as far as it asks for things here."""

    def __init__(self, name: str, dialect: int) -> None:
        super().__init__()
        self.id = next(remote_ids)
        self.name = name
        self.dialect = dialect
        self.partitions: set[Partition] = set()  # where it may wait, or hold leases


class RemoteRequest(Request):
    """A command of a `RemoteClient`. Its answers go back over the link it came on."""

    __slots__ = ("_dialect", "_has_said", "_link", "_number", "_owner", "_slot")

    def __init__(self, owner: Owner, link: PeerLink, client: RemoteClient, forward: Forward, tail: bytes) -> None:
        super().__init__(client, tail, forward.reply_to, forward.header, forward.payload, _deliver_nothing)
        self._owner = owner
        self._link = link
        self._number = forward.request
        self._slot = forward.slot
        self._dialect = forward.dialect
        self._has_said = False

    def respond(self, payload: bytes, header: bytes = b"") -> None:
        """Have the answer published where the client is."""
        reply = Reply(self._number)
        dialect = self.client.dialect
        if dialect != self._dialect:
            self._dialect = reply.dialect = dialect
        if self.reply_to:
            reply.header, reply.payload = header, payload
            if self._has_said:  # the request is known there until the first answer
                reply.subject = self.reply_to
            self._has_said = True
        else:
            reply.outcome = DONE
        try:
            self._link.say("replies", reply, reply.size)
        except Mq9Error as failure:  # more than a message of the stream can hold
            super().fail(failure)

    def fail(self, failure: Mq9Error, **fields: object) -> None:
        """As a plain request; but if it failed because its slot moved away, its node decides what becomes of it."""
        partition = self._owner.node.partition(self._slot)
        failure = told(partition, failure)
        if failure.code == "UNAVAILABLE" and partition is None:
            self._link.say("replies", Reply(self._number, MOVED), ROW_BYTES)
        else:
            super().fail(failure, **fields)


class Owner:
    """See the module. `internal` has what nodes ask each other, by subject."""

    def __init__(self, broker: Broker, node: Node) -> None:
        self.broker = broker
        self.node = node
        self.internal: dict[bytes, Internal] = {}
        self.carried_out = 0  # since start
        self._routes: dict[bytes, tuple[Command | None, bytes, bool]] = {}
        self._clients: dict[PeerLink, dict[int, RemoteClient]] = {}

    def on_forwards(self, link: PeerLink, forwards: Iterable[bytes]) -> None:
        """Requests of the clients of a node."""
        for forward in chain.from_iterable(map(read_forwards, forwards)):
            internal = self.internal.get(forward.subject)
            if internal is not None and forward.slot == ANY_SLOT:
                self._ask(link, forward, internal)
                continue
            partition = self.node.partition(forward.slot)
            if partition is None or forward.epoch > self.node.epoch(forward.slot):
                epoch = self.node.epoch(forward.slot)
                link.say("replies", Reply(forward.request, NOT_LEADER, epoch=epoch), ROW_BYTES)
                continue
            self.carried_out += 1
            if internal is not None:
                self._ask(link, forward, internal)
            else:
                self._carry_out(link, forward, partition)

    def _carry_out(self, link: PeerLink, forward: Forward, partition: Partition) -> None:
        command, tail, is_older = self._routes.get(forward.subject) or self._route(forward.subject)
        client = self._client(link, forward)
        client.partitions.add(partition)
        request = RemoteRequest(self, link, client, forward, tail)
        request.is_older = is_older
        if command is None:  # of a node of another release
            request.fail(error("UNKNOWN_COMMAND", subject=forward.subject.decode("utf-8", "replace")))
            return
        target = self.broker if command.placement is Placement.AGENT else partition
        self.broker.carry_out(command.handle, target, request, forward.subject)

    def _route(self, subject: bytes) -> tuple[Command | None, bytes, bool]:
        if len(self._routes) >= ROUTE_CACHE_ENTRIES_MAX:
            self._routes.clear()
        route = self._routes[subject] = resolve(self.broker.commands, subject)
        return route

    def _client(self, link: PeerLink, forward: Forward) -> RemoteClient:
        if not forward.client:
            return RemoteClient("", forward.dialect)
        clients = self._clients.setdefault(link, {})
        client = clients.get(forward.client)
        if client is None:
            client = clients[forward.client] = RemoteClient(forward.client_name, forward.dialect)
        elif forward.dialect:
            client.dialect = forward.dialect
        return client

    def _ask(self, link: PeerLink, forward: Forward, internal: Internal) -> None:
        def answer(failure: Mq9Error | None, payload: bytes) -> None:
            reply = Reply(forward.request, payload=payload)
            if failure is not None:
                if forward.slot != ANY_SLOT:
                    failure = told(self.node.partition(forward.slot), failure)
                reply.header, reply.payload = failure.code.encode(), failure.text.encode()
                if failure.code == "UNAVAILABLE" and forward.slot != ANY_SLOT and self.node.partition(forward.slot) is None:
                    reply.outcome = MOVED
            link.say("replies", reply, reply.size)

        try:
            internal(forward.payload, answer)
        except Mq9Error as failure:
            answer(failure, b"")

    def ask_here(self, ask: Ask) -> None:
        """What a node asks itself: what it asks about is here."""
        try:
            self.internal[ask.subject](ask.payload, ask.done)
        except Mq9Error as failure:
            ask.done(told(self.node.partition(ask.slot), failure), b"")

    def on_gone(self, link: PeerLink, gone: Iterable[peer.ClientGone]) -> None:
        """Clients of a node have closed; after the requests of the same batch, which they may have said before."""
        clients = self._clients.get(link, {})
        for each in gone:
            client = clients.pop(each.client, None)
            if client is not None:
                _release(client)

    def link_gone(self, link: PeerLink) -> None:
        """A link that a node dialed is over: what its clients hold is free. They may ask again on the next one."""
        for client in self._clients.pop(link, {}).values():
            _release(client)

    def partition_closing(self, partition: Partition) -> None:
        """It is not kept alive by those who have asked it for something."""
        for clients in self._clients.values():
            for client in clients.values():
                client.partitions.discard(partition)

    def stats(self) -> dict[str, int]:
        """For monitoring."""
        return {"remote_clients": sum(map(len, self._clients.values())), "carried_out": self.carried_out}


def _release(client: RemoteClient) -> None:
    for partition in client.partitions:
        partition.fetching.owner_gone(client.id)


def _deliver_nothing(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> int:
    return 0
