"""What a client can say: one frozen class per frame, and the one error that reading them can end in.

A frame owns its bytes: nothing in it is a view of a read buffer. Frames hold no references that could form a cycle,
so the garbage collector is told to leave them alone (`gc=False`): millions pass through per minute.
"""

from __future__ import annotations

import msgspec


class ProtocolError(Exception):
    """The peer broke the protocol. `text` is what `-ERR` says; `closes` whether the connection ends with it."""

    def __init__(self, text: str, *, closes: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.closes = closes


class Connect(msgspec.Struct, frozen=True, gc=False):
    """CONNECT: the JSON object as it came; `connect.decode` reads it."""

    body: bytes


class Publish(msgspec.Struct, frozen=True, gc=False):
    """PUB or HPUB. `reply` and `header` are empty when absent; `header` is the whole block, `NATS/1.0` to the blank line."""

    subject: bytes
    reply: bytes
    header: bytes
    payload: bytes


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """SUB. `queue` is empty when absent."""

    subject: bytes
    queue: bytes
    sid: bytes


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """UNSUB. `max_messages` counts from the SUB; 0: at once."""

    sid: bytes
    max_messages: int


class Ping(msgspec.Struct, frozen=True, gc=False):
    """PING: answered in order with what came before it."""


class Pong(msgspec.Struct, frozen=True, gc=False):
    """PONG: the answer to a PING of ours."""


Frame = Connect | Publish | Subscribe | Unsubscribe | Ping | Pong

# The -ERR texts that published clients and the NATS documentation know.
UNKNOWN_OPERATION = "Unknown Protocol Operation"
PARSER_ERROR = "Parser Error"
CONTROL_LINE_TOO_LONG = "maximum control line exceeded"
PAYLOAD_TOO_LARGE = "Maximum Payload Violation"
HEADER_TOO_LARGE = "Maximum Header Size Exceeded"
INVALID_HEADER = "Invalid Message Header"
CONNECT_FIRST = "Authorization Violation"
