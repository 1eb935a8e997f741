"""AGENT.REGISTER: make an agent known, or replace what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.router.request import Request
from mq9.errors import Mq9Error, error
from mq9.protocol.replies import OK

if TYPE_CHECKING:
    from broker_node.broker import Broker


def handle(broker: Broker, request: Request) -> None:
    """Reply: `{error:""}`, once the agent is durable and every DISCOVER that follows finds it."""

    def registered(failure: Mq9Error | None) -> None:
        if failure is not None:
            request.fail(failure)
            return
        broker.counters.agents_registered += 1
        request.respond(OK)

    if not broker.is_writable:
        raise error("STORAGE_FULL")
    broker.agents.register(request.payload, registered)
