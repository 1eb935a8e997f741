"""A message as the broker keeps it, whatever it came over and whatever it is stored in."""

from __future__ import annotations

from typing import NamedTuple


class StoredMessage(NamedTuple):
    """A message as stored; its mailbox, tier and id are in its key.

    `header` is the sender's whole NATS header block (or empty), `key` and `tags` (comma-joined) what the broker read
    from it, `reply` the reply subject of the SEND. `expires_ms` 0: no TTL of its own.
    """

    create_ms: int
    expires_ms: int
    header: bytes
    key: bytes
    tags: bytes
    reply: bytes
    payload: bytes
