"""The published SDK's constructor and habits, so that programs written for it run unchanged.

They write `async with Mq9Client(server) as client`, `await client.mailbox_create(name=..., ttl=...)`, `client.send`,
`fetch`, `ack`, `consume(address, handler, ...)`, `query`, `delete` and the agent calls; `from mq9 import Consumer, Message,
Mq9Client, Mq9Error, Priority`. All of these are the client's own methods: what they return is a `str`, an `int` or a `list`
with more to tell.
"""

from __future__ import annotations

from mq9.client.client import Client


class Mq9Client(Client):
    """The client under its published name. Times are seconds."""

    def __init__(
        self, server: str, *, request_timeout: float = 5.0, reconnect_attempts: int = 5, reconnect_delay: float = 2.0
    ) -> None:
        super().__init__(
            server,
            timeout_s=request_timeout,
            reconnect_attempts=reconnect_attempts,
            reconnect_delay_s=reconnect_delay,
            # As many attempts as were asked for must fit in.
            connect_timeout_s=(reconnect_attempts + 1) * (reconnect_delay + 2.0),
        )
