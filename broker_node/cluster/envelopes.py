"""Requests of clients and their answers, as nodes send them to each other: rows of msgpack.

There is one of each for every message that a client sends to a node that does not have its mailbox, so all those of a batch
are one field of it: a list of rows is written and read at once, in a tenth of the time that as many protobuf messages take.
A row that is longer than is known here is of a later release: what is new is skipped. New fields go to the end and have a
default.
"""

from __future__ import annotations

from typing import Final

import msgspec

ROW_BYTES: Final = 96  # no row takes more than this and what is counted of it


class Forward(msgspec.Struct, array_like=True, gc=False):
    """A request: of a client, or of the node itself (`client` 0)."""

    request: int  # unique on the stream; 0: no answer is wanted
    slot: int
    epoch: int  # of the slot, as the sender knows it
    client: int  # its id on the node it is connected to
    dialect: int
    subject: bytes
    reply_to: bytes
    header: bytes
    payload: bytes
    client_name: str


# What an answer says of its request.
ANSWER: Final = 0  # one of maybe several
NOT_LEADER: Final = 1  # nothing was done; `epoch` is what the sender knows
DONE: Final = 2  # nothing more will come
MOVED: Final = 3  # the slot moved away before it was known whether it was done; it may have been


class Reply(msgspec.Struct, array_like=True, gc=False):
    """An answer. `subject` is where it is published, at the client's node; empty: where the request said."""

    request: int
    outcome: int = ANSWER
    subject: bytes = b""
    header: bytes = b""
    payload: bytes = b""
    dialect: int = 0  # of the client after the command; 0: unchanged
    epoch: int = 0

    @property
    def size(self) -> int:
        """No less than its bytes on the wire."""
        return ROW_BYTES + len(self.subject) + len(self.header) + len(self.payload)


encode = msgspec.msgpack.Encoder().encode
read_forwards = msgspec.msgpack.Decoder(list[Forward]).decode
read_replies = msgspec.msgpack.Decoder(list[Reply]).decode
