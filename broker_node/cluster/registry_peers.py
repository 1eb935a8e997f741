"""The registry as clients of a node of a cluster see it: all agents of all nodes.

DISCOVER asks every node that leads slots, this one too, and merges what they rank (mq9/registry/sharing.py):

    WEIGH  how rare the words of the query are among all agents; this node embeds the query for all meanwhile
    RANK   the best of each node, until every slot is covered: a slot on the move is asked for again
    SHOW   the agents of the page, from the nodes that have them

so an agent whose REGISTER was answered, wherever, is found by the next DISCOVER, wherever. What cannot be asked in time is
left out, and the reply then says `"partial": true`. The order is kept here for later pages, as on a single node.

An agent lives in the slot of its name. REPORT and UNREGISTER may name it by its mailbox: the node of that slot, which does
not know it, asks the others who has that mailbox, and passes the command on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from broker_node.cluster.registry_asking import Asking
from broker_node.cluster.registry_shares import Shares
from broker_node.loop_hooks import Cancellable, LoopHooks
from mq9.clock import Clock
from mq9.errors import NotFound, error, from_reply
from mq9.limits import DISCOVER_GATHER_S
from mq9.registry.discovery import Answer
from mq9.registry.paging import Orders
from mq9.registry.registry import Done, Registry
from mq9.registry.requests import parse_agent, parse_discover
from mq9.registry.sharing import Found
from mq9.storage.layout import slot_of
from mq9.v1 import peer_pb2 as wire

if TYPE_CHECKING:
    from google.protobuf.message import Message

AGAIN_S: Final = 0.05  # before slots that nobody has answered for are asked for again
ASKING_MAX: Final = 1000  # DISCOVERs under way on this node; the next one is refused and may be repeated

Answered = Callable[[wire.Discovered | None], None]


class PeerLink(Protocol):
    """What is needed of `cluster/link.py`."""

    node: str

    def send(self, kind: str, message: Message) -> None: ...


class View(Protocol):
    """What is needed of the node and its membership."""

    @property
    def node(self) -> str:
        """Our name."""

    @property
    def slots(self) -> int:
        """How many slots the cluster has."""

    def leaders(self) -> Mapping[int, str]:
        """Who leads which slot, as the newest view has it; those without a leader are left out."""

    def link(self, node: str) -> PeerLink | None:
        """The stream we dialed to a node, if it is up."""

    def may_serve(self) -> bool:
        """Whether our lease holds."""


class RegistryPeers:
    """In place of the registry for whoever has a client's command. On the loop's thread."""

    def __init__(self, registry: Registry, view: View, clock: Clock, hooks: LoopHooks) -> None:
        self.registry = registry
        self.view = view
        self.clock = clock
        self.hooks = hooks
        self.orders: Orders[Found] = Orders()
        self.shares = Shares(registry, view.may_serve)
        self.asking = 0  # DISCOVERs under way
        self.closed = False
        self._requests = count(1)
        self._waiting: dict[int, tuple[str, Answered]] = {}  # asked of a node
        self._again: dict[int, Callable[[], None]] = {}  # to be asked again in a moment

    # --- Commands of clients ----------------------------------------------------------------------------------

    def register(self, payload: bytes, done: Done) -> None:
        """As `Registry.register`; this node leads the slot."""
        self.registry.register(payload, done)

    def report(self, payload: bytes, done: Done) -> None:
        """As `Registry.report`."""
        try:
            self.registry.report(payload, done)
        except NotFound as failure:
            self._elsewhere(wire.Discover.REPORT, payload, done, failure)

    def unregister(self, payload: bytes, done: Done) -> None:
        """As `Registry.unregister`."""
        try:
            self.registry.unregister(payload, done)
        except NotFound as failure:
            self._elsewhere(wire.Discover.UNREGISTER, payload, done, failure)

    def discover(self, payload: bytes, owner: int, done: Answer) -> None:
        """As `Registry.discover`, over all agents of the cluster."""
        asked = parse_discover(payload)
        if self.asking >= ASKING_MAX:
            raise error("LIMIT_EXCEEDED", reason=f"{ASKING_MAX} queries are waiting")
        Asking(self, payload, asked, owner, done).begin()

    def _elsewhere(self, kind: wire.Discover.Kind, payload: bytes, done: Done, failure: NotFound) -> None:
        """A REPORT or UNREGISTER of an agent that is not here: by its mailbox, it may be anywhere."""
        body = parse_agent(payload, naming_only=True)
        if body.named:
            raise failure

        def found(answers: Sequence[wire.Discovered | None]) -> None:
            agents = [(answer.orders[0], answer.names[0]) for answer in answers if answer is not None and answer.names]
            if agents:
                name = max(agents)[1]  # of several with one mailbox, the last registered: as on a single node
                change = wire.Discover(kind=kind, body=payload, names=[name])
                self.ask_all([(self.leader_of(name), change)], self.deadline_s(), changed)
            elif all(answer is not None and not answer.error for answer in answers):
                done(failure)
            else:
                done(error("UNAVAILABLE", reason="not every broker could be asked for this mailbox"))

        def changed(answers: Sequence[wire.Discovered | None]) -> None:
            answer = answers[0]
            if answer is None:
                done(error("UNAVAILABLE", reason="the broker of this agent did not answer"))
            else:
                done(from_reply(answer.error, answer.text) if answer.error else None)

        question = wire.Discover(kind=wire.Discover.FIND, names=[body.name])
        self.ask_all([(node, question) for node in self.nodes()], self.deadline_s(), found)

    # --- The other nodes --------------------------------------------------------------------------------------

    def nodes(self) -> list[str]:
        """Everybody who leads slots, and this node."""
        return sorted({self.view.node, *self.view.leaders().values()})

    def leader_of(self, name: str) -> str:
        """The node that leads the slot of an agent; empty where there is none."""
        return self.view.leaders().get(self.slot_of(name), "")

    def slot_of(self, name: str) -> int:
        """The slot of an agent."""
        return slot_of(name.encode(), self.view.slots)

    def deadline_s(self) -> float:
        """When to stop waiting for what is asked now."""
        return self.clock.monotonic_s() + DISCOVER_GATHER_S

    def ask_all(
        self,
        questions: Sequence[tuple[str, wire.Discover]],
        deadline_s: float,
        done: Callable[[Sequence[wire.Discovered | None]], None],
    ) -> None:
        """Put questions to nodes; `done` gets the answers in their order, None for what did not come in time."""
        answers: list[wire.Discovered | None] = [None] * len(questions)
        left = len(questions)
        requests: list[int] = []
        timer: Cancellable | None = None

        def answered(place: int, answer: wire.Discovered | None) -> None:
            nonlocal left
            answers[place] = answer
            left -= 1
            if not left:
                if timer is not None:
                    timer.cancel()
                done(answers)

        def late() -> None:
            for request in requests:
                self._settle(request, None)

        for place, (node, question) in enumerate(questions):
            self._ask(node, question, lambda answer, place=place: answered(place, answer), requests)  # type: ignore[misc]
        if not questions:
            done(answers)
        elif left:
            timer = self.hooks.call_later(max(0.0, deadline_s - self.clock.monotonic_s()), late)

    def _ask(self, node: str, question: wire.Discover, answered: Answered, requests: list[int]) -> None:
        request = next(self._requests)
        requests.append(request)
        mine = wire.Discover()
        mine.CopyFrom(question)
        mine.request = request
        self._waiting[request] = (node, answered)
        if node == self.view.node:
            self.shares.answer(mine, lambda answer: self._settle(request, answer))
            return
        link = self.view.link(node) if not self.closed else None
        if link is None:
            self._settle(request, None)
        else:
            link.send("discovers", mine)

    def ask_again(self, ask: Callable[[], None]) -> None:
        """Have `ask` called in a moment, or when this node closes."""
        number = next(self._requests)
        self._again[number] = ask

        def due() -> None:
            if self._again.pop(number, None) is not None:
                ask()

        self.hooks.call_later(AGAIN_S, due)

    def _settle(self, request: int, answer: wire.Discovered | None) -> None:
        waiting = self._waiting.pop(request, None)
        if waiting is not None:
            waiting[1](answer)

    # --- What comes over the links ----------------------------------------------------------------------------

    def on_discover(self, link: PeerLink, question: wire.Discover) -> None:
        """A node asks."""
        self.shares.answer(question, lambda answer: link.send("discovered", answer))

    def on_discovered(self, link: PeerLink, answer: wire.Discovered) -> None:
        """A node has answered."""
        waiting = self._waiting.get(answer.request)
        if waiting is not None and waiting[0] == link.node:
            self._settle(answer.request, answer)

    def on_down(self, link: PeerLink) -> None:
        """A link that we dialed is gone: what was asked on it is not answered any more."""
        for request in [request for request, (node, _) in self._waiting.items() if node == link.node]:
            self._settle(request, None)

    def close(self) -> None:
        """Whoever waits gets what there is; after the registry was closed."""
        self.closed = True
        for request in list(self._waiting):
            self._settle(request, None)
        asks, self._again = list(self._again.values()), {}
        for ask in asks:
            ask()
