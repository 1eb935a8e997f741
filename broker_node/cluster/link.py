"""One stream between two brokers: what is said in a turn of the loop is one message on it.

A link has one writer. What is said while that is writing is the next message: under load batches grow by themselves, and no
envelope has a task or a future of its own. A stream that ends takes with it what was queued.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from google.protobuf.message import Message

from broker_node.cluster.envelopes import encode
from mq9 import limits
from mq9.errors import error
from mq9.v1.peer_pb2 import PeerBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits that a test makes small."""

    envelope_bytes: int = limits.PEER_MESSAGE_BYTES_MAX - 64  # tags and lengths
    backlog_bytes: int = limits.PEER_BACKLOG_BYTES_MAX
    hello_timeout_s: float = limits.PEER_HELLO_TIMEOUT_S
    hellos: int = limits.PEER_HELLOS_MAX


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# A batch on the wire is its envelopes one after another, each behind the tag of its field and its length.
_TAGS: Final = {field.name: _varint(field.number << 3 | 2) for field in PeerBatch.DESCRIPTOR.fields if field.is_repeated}


class Link:
    """One stream. `node` and `incarnation` are those of the other end."""

    __slots__ = ("_bounds", "_count", "_is_awake", "_open_bytes", "_parts", "_rows", "_sealed", "ended", "incarnation",
                 "is_dialed", "node", "queued_bytes", "reason", "wake")  # fmt: skip

    def __init__(self, node: str, incarnation: int, bounds: Bounds, *, is_dialed: bool) -> None:
        self._bounds = bounds
        self.node = node
        self.incarnation = incarnation
        self.is_dialed = is_dialed
        self.queued_bytes = 0  # said, and not taken by the stream
        self.ended = asyncio.Event()
        self.reason = ""
        self.wake = asyncio.Event()
        self._is_awake = False
        self._parts: list[bytes] = []  # of the open batch
        self._rows: dict[str, list[msgspec.Struct]] = {}
        self._count = 0
        self._open_bytes = 0
        self._sealed: deque[bytes] = deque()

    @property
    def is_up(self) -> bool:
        return not self.ended.is_set()

    @property
    def is_crowded(self) -> bool:
        """So much is waiting that callers should not add to it what can wait."""
        return self.queued_bytes > limits.PEER_QUEUE_BYTES_MAX

    @property
    def is_filling(self) -> bool:
        """Half of that: whoever can be kept from asking for more is, before it is too much."""
        return 2 * self.queued_bytes > limits.PEER_QUEUE_BYTES_MAX

    def send(self, kind: str, message: Message) -> None:
        """Say `message` in this turn's batch; `kind` is the field of PeerBatch it belongs to. Never waits; on a link that is
        down it does nothing. Raises PAYLOAD_TOO_LARGE for what no message of the stream can hold."""
        if self.ended.is_set():
            return
        body = message.SerializeToString()
        head = _TAGS[kind] + _varint(len(body))
        size = len(head) + len(body)
        self._make_room(size)
        self._parts += (head, body)
        self._add(size)

    def say(self, kind: str, row: msgspec.Struct, size: int) -> None:
        """The same for a row of a kind whose rows of one batch are one field (envelopes.py): cheaper by far. `size` is no less
        than the bytes it takes."""
        if self.ended.is_set():
            return
        self._make_room(size)
        rows = self._rows.get(kind)
        if rows is None:
            self._rows[kind] = [row]
        else:
            rows.append(row)
        self._add(size)

    def _make_room(self, size: int) -> None:
        """For `size` more bytes in the open batch."""
        if size > self._bounds.envelope_bytes:
            raise error("PAYLOAD_TOO_LARGE", size=size, limit=self._bounds.envelope_bytes)
        if self._count and self._open_bytes + size > limits.PEER_BATCH_BYTES_MAX:
            self._seal()

    def _add(self, size: int) -> None:
        self._count += 1
        self._open_bytes += size
        self.queued_bytes += size
        if self._count >= limits.PEER_BATCH_ENVELOPES_MAX:
            self._seal()
        if not self._is_awake:
            self._is_awake = True
            self.wake.set()
        if self.queued_bytes > self._bounds.backlog_bytes:
            self.close(f"it takes nothing: {self.queued_bytes} bytes wait for it")

    def _seal(self) -> None:
        for kind, rows in self._rows.items():
            body = encode(rows)
            self._parts += (_TAGS[kind], _varint(len(body)), body)
        batch = b"".join(self._parts)
        self.queued_bytes += len(batch) - self._open_bytes
        self._sealed.append(batch)
        self._forget_open()

    def _forget_open(self) -> None:
        self._parts = []
        self._rows = {}
        self._count = self._open_bytes = 0

    async def write_all(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """The one writer: until it is cancelled or `write` fails."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self._sealed or self._count:
                if not self._sealed:
                    self._seal()
                batch = self._sealed.popleft()
                await write(batch)
                self.queued_bytes -= len(batch)
            self._is_awake = False

    def close(self, reason: str) -> None:
        """End the stream, without what is queued."""
        if self.ended.is_set():
            return
        self.reason = reason
        self.ended.set()
        self._forget_open()
        self._sealed.clear()
        self.queued_bytes = 0
