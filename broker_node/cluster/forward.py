"""Requests on their way to the node that serves their slot, and the answers on their way back.

A request in flight is one entry in a dict. It leaves with the first answer (the rest of a stream of answers needs no entry),
with its client, or with the link: what may be done twice is then sent after the slot, anything else is refused with a text
that says it may have happened. Where nobody serves the slot, requests wait in line, and one of them at a time is used to find
out whether somebody does, so that their order stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, Protocol

from broker_node.cluster.envelopes import MOVED, NOT_LEADER, ROW_BYTES, Forward, Reply
from broker_node.cluster.requests import ANY_SLOT, Nobody, PlacedRequest
from broker_node.cluster.waiting import WaitingRoom
from broker_node.loop_hooks import Cancellable, LoopHooks
from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.limits import FORWARD_RETRY_S, FORWARD_WAIT_S, FORWARDS_MAX
from mq9.v1 import peer_pb2 as peer

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from msgspec import Struct

    from broker_node.router.client import Client


class PeerLink(Protocol):
    """What is needed of a stream to or from a peer."""

    node: str

    @property
    def is_crowded(self) -> bool: ...

    def send(self, kind: str, message: Message) -> None: ...

    def say(self, kind: str, row: Struct, size: int) -> None: ...


class View(Protocol):
    """What is needed of the node and of what it knows of the cluster."""

    @property
    def node(self) -> str:
        """Our name."""

    @property
    def slots(self) -> int:
        """How many slots the cluster has."""

    def leader(self, slot: int) -> str:
        """Who leads a slot in the newest view; empty: nobody."""

    def epoch(self, slot: int) -> int:
        """In which epoch."""

    def link(self, node: str) -> PeerLink | None:
        """The stream we dialed to a node, if it is up."""

    def may_serve(self) -> bool:
        """Whether our lease holds."""


class _Away:
    """Where requests of one client have gone."""

    __slots__ = ("links", "polls")

    def __init__(self) -> None:
        self.links: set[PeerLink] = set()
        self.polls: dict[int, PeerLink] = {}  # requests that may never be answered once the client has closed


class Forwarder:
    """See the module. `serve` carries a request out here and returns True if its slot is served here."""

    def __init__(self, view: View, clock: Clock, hooks: LoopHooks, serve: Callable[[PlacedRequest], bool]) -> None:
        self.view = view
        self.forwarded = 0  # since start
        self.in_flight = 0
        self.waiting = WaitingRoom()
        self._serve = serve
        self._clock = clock
        self._hooks = hooks
        self._bytes = 0
        self._numbers = count(1)
        self._out: dict[PeerLink, dict[int, PlacedRequest]] = {}
        self._clients: dict[int, _Away] = {}
        self._probed: dict[int, int] = {}  # slot -> the request that is to find out whether it is served
        self._timer: Cancellable | None = None
        self._closed = False

    @property
    def bytes(self) -> int:
        """Of requests that wait or are on their way."""
        return self._bytes + self.waiting.bytes

    # --- Going out --------------------------------------------------------------------------------------------

    def forward(self, request: PlacedRequest) -> None:
        """Send a request to whoever serves its slot, or have it wait for that."""
        if self._closed:
            request.refuse(error("UNAVAILABLE", reason="the broker is stopping"))
        elif request.slot in self.waiting:
            self._wait(request)  # nobody overtakes
        else:
            self._go(request)

    def ask_node(self, node: str, request: PlacedRequest) -> None:
        """Send a request to a node, whatever it leads."""
        link = self.view.link(node)
        if link is None or self._closed:
            request.refuse(error("UNAVAILABLE", reason=f"there is no connection to broker {node}"))
        else:
            self._put(link, request)

    def _go(self, request: PlacedRequest) -> None:
        """Wherever it can be carried out; else it waits."""
        try:
            if not self._serve(request) and not self._send(request):
                self._wait(request)
        except Mq9Error as failure:
            request.refuse(failure)

    def _send(self, request: PlacedRequest) -> int:
        """Its number on the way to whoever leads the slot; 0 when there is no way."""
        node = self.view.leader(request.slot)
        link = self.view.link(node) if node and node != self.view.node else None
        if link is None or link.is_crowded:
            return 0
        return self._put(link, request)

    def _put(self, link: PeerLink, request: PlacedRequest) -> int:
        if self.in_flight >= FORWARDS_MAX:
            raise error("LIMIT_EXCEEDED", reason=f"{FORWARDS_MAX} requests on their way to other brokers")
        number = next(self._numbers)
        client = request.client
        slot, name, size = request.slot, client.name, request.size
        epoch = self.view.epoch(slot) if slot != ANY_SLOT else 0
        row = Forward(
            number,
            slot,
            epoch,
            client.id,
            client.dialect,
            request.subject,
            request.reply_to,
            request.header,
            request.payload,
            name,
        )
        link.say("forwards", row, size + 4 * len(name) + ROW_BYTES)
        self.forwarded += 1
        self.in_flight += 1
        self._bytes += size
        out = self._out.get(link)
        if out is None:
            out = self._out[link] = {}
        out[number] = request
        if client.id:
            away = self._clients.get(client.id)
            if away is None:
                away = self._clients[client.id] = _Away()
            away.links.add(link)
            if request.is_poll:
                away.polls[number] = link
        return number

    # --- Waiting ----------------------------------------------------------------------------------------------

    def _wait(self, request: PlacedRequest, *, first: bool = False) -> None:
        if not request.deadline_s:
            request.deadline_s = self._clock.monotonic_s() + FORWARD_WAIT_S
        if not self.waiting.add(request, first=first):
            request.refuse(error("UNAVAILABLE", reason="too many requests wait for the broker that has this"))
        elif self._timer is None:
            self._timer = self._hooks.call_later(FORWARD_RETRY_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for request in self.waiting.overdue(self._clock.monotonic_s()):
            request.refuse(error("UNAVAILABLE", reason="no broker serves this at the moment; nothing was done"))
        for slot in self.waiting.slots():
            # A probe that was sent a while ago and has not come back was taken.
            self.look_again(slot, everything=self._probed.pop(slot, None) is not None)
        if self.waiting.slots() and self._timer is None:
            self._timer = self._hooks.call_later(FORWARD_RETRY_S, self._tick)

    def look_again(self, slot: int, *, everything: bool = True) -> None:
        """Something has changed about a slot: send who waits for it, or only the first, to see."""
        while (request := self.waiting.take(slot)) is not None:
            try:
                if self._serve(request):
                    continue
                number = self._send(request)
            except Mq9Error as failure:
                request.refuse(failure)
                continue
            if not number:
                self.waiting.add(request, first=True)
                return
            if not everything:
                self._probed[slot] = number
                return

    # --- Coming back ------------------------------------------------------------------------------------------

    def on_replies(self, link: PeerLink, replies: Iterable[Reply], rest: Callable[[Reply], None]) -> None:
        """Answers of the node at the other end; `rest` gets those to nothing that is on its way: of a stream, all but the
        first."""
        out = self._out.get(link, {})
        for reply in replies:
            number = reply.request
            request = out.pop(number, None)
            if request is None:
                rest(reply)
                continue
            self._came_back(number, request)
            slot = request.slot
            was_probe = self._probed.get(slot) == number
            if was_probe:
                del self._probed[slot]
            if reply.outcome == NOT_LEADER and slot != ANY_SLOT:
                self._wait(request, first=was_probe)
            elif reply.outcome in (MOVED, NOT_LEADER):
                self._lost(request)
            else:
                request.answered(reply)
                if slot in self.waiting:
                    self.look_again(slot)

    def _came_back(self, number: int, request: PlacedRequest) -> None:
        self.in_flight -= 1
        self._bytes -= request.size
        away = self._clients.get(request.client.id)
        if away is not None:
            away.polls.pop(number, None)
        elif request.client.id:
            request.client = Nobody()  # it has closed: nothing more may be known of it anywhere

    def _lost(self, request: PlacedRequest) -> None:
        """Whether it was done is not known."""
        if request.slot == ANY_SLOT:
            request.refuse(error("UNAVAILABLE", reason="the broker that was asked went away"))
        elif not request.is_repeatable:
            reason = "the broker that was asked went away; whether this happened is not known"
            request.refuse(error("UNAVAILABLE", reason=reason))
        else:
            request.deadline_s = 0.0
            self.forward(request)

    def repeat(self, request: PlacedRequest) -> None:
        """It failed here because its slot moved away; it may be repeated."""
        request.deadline_s = 0.0
        self.forward(request)

    # --- What changes -----------------------------------------------------------------------------------------

    def link_up(self, link: PeerLink) -> None:
        """A link we dialed."""
        for slot in self.waiting.slots():
            if self.view.leader(slot) == link.node:
                self.look_again(slot)

    def link_down(self, link: PeerLink) -> None:
        """A link we dialed: nothing on its way over it will be answered."""
        out = self._out.pop(link, {})
        for away in self._clients.values():
            away.links.discard(link)
        for number, request in out.items():
            self._came_back(number, request)
            if self._probed.get(request.slot) == number:
                del self._probed[request.slot]
        for request in out.values():
            self._lost(request)

    def client_closed(self, client: Client) -> None:
        """Its requests are nobody's any more; the nodes that have heard of it forget it."""
        if self.waiting.slots():
            self.waiting.client_closed(client.id)
        away = self._clients.pop(client.id, None)
        if away is None:
            return
        for number, link in list(away.polls.items()):
            request = self._out.get(link, {}).pop(number, None)
            if request is not None:
                self.in_flight -= 1
                self._bytes -= request.size
        for link in away.links:
            link.send("gone", peer.ClientGone(client=client.id))

    def close(self) -> None:
        """The broker stops: whoever waits is told."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        failure = error("UNAVAILABLE", reason="the broker is stopping")
        for request in self.waiting.overdue(float("inf")):
            request.refuse(failure)
        outs = list(self._out.values())
        self._out.clear()  # an answer may end its client's connection
        for request in [request for out in outs for request in out.values()]:
            request.refuse(failure)
