"""What the rest of the broker sees of one connected client."""

from __future__ import annotations

from typing import Protocol


class Client(Protocol):
    """The session behind a connection, without its socket. `id` is unique for the life of the broker process."""

    id: int
    name: str  # from CONNECT; empty when absent
    lang: str
    version: str
    dialect: int  # 1 once the connection is known to speak the v1 dialect, else 2
