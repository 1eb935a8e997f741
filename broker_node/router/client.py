"""What the rest of the broker sees of one connected client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker_node.router.sublist import Subscription


class Client(Protocol):
    """The session behind a connection, without its socket. `id` is unique for the life of the broker process."""

    id: int
    name: str  # from CONNECT; empty when absent
    lang: str
    version: str
    dialect: int  # 1 or 2 once a command has told which the connection speaks, 0 before

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Say one message to the client."""

    def is_ready(self) -> bool:
        """Its socket took everything so far: more can be pushed."""

    def flush(self) -> None:
        """Write what was said to it now, and not when the loop's turn ends."""

    def said_offset(self) -> int:
        """Bytes said to it so far."""

    def taken_offset(self) -> int:
        """Of those, the bytes its socket has taken."""

    def keep_little(self) -> None:
        """From now on its socket takes little ahead of the network: what it has taken is lost with the client."""
