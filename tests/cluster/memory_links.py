"""Streams between the nodes of a cluster in one process: the surface of `broker_node/cluster/link.py` without sockets.

network = MemoryNetwork()
links = {name: network.join(name) for name in "abc"}
links["a"].on_batch = ...
network.connect_all()
links["a"].link("b").send("messages", CoreMessage(...))
network.settle()

What is the same as in the real one: everything sent in one turn is one serialized PeerBatch, in the order it was sent by
kind; the batches of one stream come in order; a stream that is cut loses what was on its way, and nothing is said of it.
Turned by hand, or, with `call_soon`, by a loop. Nothing is random: a test that wants streams to race holds some back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from google.protobuf.message import Message
from msgspec import Struct

from broker_node.cluster.envelopes import encode
from mq9.limits import PEER_QUEUE_BYTES_MAX
from mq9.v1.peer_pb2 import PeerBatch


class MemoryLink:
    """One end of a stream. `node` and `incarnation` are those of the other end."""

    def __init__(self, owner: MemoryLinks, node: str, incarnation: int, *, is_dialed: bool) -> None:
        self.owner = owner
        self.node = node
        self.incarnation = incarnation
        self.is_dialed = is_dialed
        self.is_up = True
        self.is_held = False
        self.queued_bytes = 0
        self.queued_bytes_max = PEER_QUEUE_BYTES_MAX
        self.batches = 0  # taken by the other end
        self.other: MemoryLink
        self._pending = PeerBatch()
        self._rows: dict[str, list[Struct]] = {}
        self._has_pending = False
        self._wire: deque[bytes] = deque()

    @property
    def is_crowded(self) -> bool:
        return self.queued_bytes > self.queued_bytes_max

    def send(self, kind: str, message: Message) -> None:
        """Say `message` in the batch of this turn; nothing at all when the stream is down."""
        if not self.is_up:
            return
        getattr(self._pending, kind).append(message)
        self._has_pending = True
        self.queued_bytes += message.ByteSize()
        self.owner.network.wake()

    def say(self, kind: str, row: Struct, size: int) -> None:
        """The same for a row; a field holds all rows of a turn."""
        if not self.is_up:
            return
        self._rows.setdefault(kind, []).append(row)
        self._has_pending = True
        self.queued_bytes += size
        self.owner.network.wake()

    def _sealed(self) -> bytes:
        for kind, rows in self._rows.items():
            getattr(self._pending, kind).append(encode(rows))
        self._rows = {}
        return self._pending.SerializeToString()

    def write(self) -> bool:
        """The end of the turn: what was said is one batch on the wire. Whether there was anything."""
        if not self._has_pending:
            return False
        self._wire.append(self._sealed())
        self._pending, self._has_pending = PeerBatch(), False
        return True

    def carry(self) -> bool:
        """Hand one batch to the other end. Whether there was one."""
        if self.is_held or not self._wire:
            return False
        batch = PeerBatch.FromString(self._wire.popleft())
        if not self._wire:
            self.queued_bytes = self._pending.ByteSize()
        self.batches += 1
        self.other.owner.on_batch(self.other, batch)
        return True

    def drop(self) -> None:
        """The stream is gone, with what was on its way."""
        self.is_up = False
        self._wire.clear()
        self._pending, self._has_pending = PeerBatch(), False
        self._rows = {}
        self.queued_bytes = 0


class MemoryLinks:
    """The links of one node, as `PeerLinks`."""

    def __init__(self, network: MemoryNetwork, node: str, incarnation: int) -> None:
        self.network = network
        self.node = node
        self.incarnation = incarnation
        self.on_batch: Callable[[MemoryLink, PeerBatch], None] = _ignore_batch
        self.on_up: Callable[[MemoryLink], None] = _ignore
        self.on_down: Callable[[MemoryLink], None] = _ignore
        self.on_accepted: Callable[[MemoryLink], None] = _ignore
        self.on_accepted_down: Callable[[MemoryLink], None] = _ignore

    def link(self, node: str) -> MemoryLink | None:
        """The dialed link to `node`, if it is up."""
        return self.network.dialed.get((self.node, node))


class MemoryNetwork:
    """Who is connected to whom. The stream `(a, b)` is the one that `a` dialed; both of its directions come and go with it."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        """With `call_soon` whatever is sent arrives by itself, some turns later; without it `settle` or `step` carries it."""
        self.nodes: dict[str, MemoryLinks] = {}
        self.dialed: dict[tuple[str, str], MemoryLink] = {}
        self._call_soon = call_soon
        self._is_awake = False

    def join(self, node: str, incarnation: int = 1) -> MemoryLinks:
        """A node comes, or comes back: streams of the one before are cut."""
        self.leave(node)
        self.nodes[node] = links = MemoryLinks(self, node, incarnation)
        return links

    def leave(self, node: str) -> None:
        """A node dies. It is told nothing any more; the others see their streams end."""
        gone = self.nodes.pop(node, None)
        if gone is not None:
            gone.on_down = gone.on_accepted_down = _ignore
        for pair in [pair for pair in self.dialed if node in pair]:
            self.cut(*pair)

    def connect(self, dialer: str, acceptor: str) -> None:
        """`dialer` gets a stream to `acceptor`."""
        self.cut(dialer, acceptor)
        ours, theirs = self.nodes[dialer], self.nodes[acceptor]
        near = MemoryLink(ours, theirs.node, theirs.incarnation, is_dialed=True)
        far = MemoryLink(theirs, ours.node, ours.incarnation, is_dialed=False)
        near.other, far.other = far, near
        self.dialed[dialer, acceptor] = near
        theirs.on_accepted(far)
        ours.on_up(near)

    def connect_all(self) -> None:
        """Everybody dials everybody it has no stream to."""
        for dialer in self.nodes:
            for acceptor in self.nodes:
                if dialer != acceptor and (dialer, acceptor) not in self.dialed:
                    self.connect(dialer, acceptor)

    def cut(self, dialer: str, acceptor: str) -> None:
        """The stream that `dialer` opened to `acceptor` breaks, if there is one."""
        near = self.dialed.pop((dialer, acceptor), None)
        if near is None:
            return
        near.drop()
        near.other.drop()
        near.owner.on_down(near)
        near.other.owner.on_accepted_down(near.other)

    def hold(self, dialer: str, acceptor: str) -> None:
        """What is on its way in either direction of the stream stays there until `release`."""
        near = self.dialed[dialer, acceptor]
        near.is_held = near.other.is_held = True

    def release(self, dialer: str, acceptor: str) -> None:
        near = self.dialed[dialer, acceptor]
        near.is_held = near.other.is_held = False
        self.wake()

    def step(self) -> bool:
        """One turn: every stream writes what was said, and carries one batch each way. Whether anything moved."""
        moved = [link.write() for link in self._ends()]
        moved += [link.carry() for link in self._ends() if link.is_up]
        return any(moved)

    def settle(self) -> None:
        """Turn until nothing moves. Links alone: calls that a node has put off are its loop's affair."""
        while self.step():
            pass

    def wake(self) -> None:
        """Something was said."""
        if self._call_soon is not None and not self._is_awake:
            self._is_awake = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._is_awake = False
        if self.step():
            self.wake()

    def _ends(self) -> Iterable[MemoryLink]:
        return [end for near in list(self.dialed.values()) for end in (near, near.other)]


def _ignore(link: MemoryLink) -> None:
    """Nobody wants to know."""


def _ignore_batch(link: MemoryLink, batch: PeerBatch) -> None:
    """Nobody listens yet."""
